"""Operations and bytes of a compiled program, counted from its optimized HLO.

HLO is a list of computations, each a list of instructions `name = shape operation(operands), attributes`. A fusion is a
single instruction: it reads each operand and writes its result once. If it only takes slices of an operand, it reads
just these. The body of a loop is counted once, not once per iteration.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<operation>[\w\-]+)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"(?P<type>\w+)\[(?P<sizes>[\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_NAME = re.compile(r"%([\w.\-]+)")
_CONTRACTED = re.compile(r"[lr]hs_contracting_dims=\{([\d,]*)\}")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=([a-z\d?]+)_([a-z\d?]+)->([a-z\d?]+)")
_NUMBER = re.compile(r"\d+")
_SLICES = {"slice", "dynamic-slice"}
# Instructions that move no data, or run other computations, whose instructions are counted.
_FREE = {"parameter", "get-tuple-element", "tuple", "constant", "bitcast", "while", "conditional", "call"}


class Array(NamedTuple):
    """Element type of an array, such as "f32", and its dimensions."""

    type: str
    sizes: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size in memory."""
        bits = _NUMBER.search(self.type)
        return math.prod(self.sizes) * (max(1, int(bits.group()) // 8) if bits else 1)


class Instruction(NamedTuple):
    """An instruction of a computation.

    `result` has several arrays if the instruction returns a tuple. `argument` is the text in the parentheses, which is
    not always a list of operands.
    """

    name: str
    operation: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    argument: str


class Dot(NamedTuple):
    """A matrix product, [rows, inner] x [inner, columns]; either operand may be stored transposed."""

    rows: int
    inner: int
    columns: int
    left_transposed: bool = False
    right_transposed: bool = False

    @property
    def flops(self) -> int:
        """Number of multiplications and additions."""
        return 2 * self.rows * self.inner * self.columns


class Convolution(NamedTuple):
    """A convolution, or a gradient of one, which is also a convolution in HLO.

    In the gradient with respect to a kernel, HLO's kernel is the gradient of the output, and its images are the input's
    channels: `images` is then a number of channels, `inputs` one of images, and `positions` is the size of the kernel.

    Attributes:
        images: number of images.
        positions: output positions of an image.
        pairs: pairs of an output position and a tap of the kernel such that the tap is on a pixel of the image. Taps on
            zeros around the image, or on those that a transposed convolution inserts between pixels, do not count.
        inputs: input channels that contribute to an output channel.
        outputs: output channels.
    """

    images: int
    positions: int
    pairs: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Number of multiplications by pixels, and of additions."""
        return 2 * self.images * self.pairs * self.inputs * self.outputs

    @property
    def product(self) -> Dot:
        """Matrix product of the patches of all images with the kernel, with as many operations.

        It is [images * positions, inner] x [inner, outputs], where `inner` is the mean number of values in a patch that
        do not belong to zeros, rounded.
        """
        inner = max(1, round(self.pairs * self.inputs / self.positions))
        return Dot(self.images * self.positions, inner, self.outputs)


@dataclass(frozen=True)
class Work:
    """Work of one run of a program.

    Attributes:
        products: its matrix products.
        convolutions: its convolutions.
        bytes: bytes that its instructions read and write, each operand and result once; caches absorb part of them.
    """

    products: tuple[Dot, ...]
    convolutions: tuple[Convolution, ...]
    bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products and the convolutions."""
        return sum(dot.flops for dot in self.products) + sum(one.flops for one in self.convolutions)


def work_of(text: str) -> Work:
    """Counts the work of a program, given as optimized HLO."""
    computations = dict(_computations(text))
    inside = set()  # computations that belong to fusions and reductions
    for one in itertools.chain(*computations.values()):
        if one.operation != "call":
            inside.update(_CALLED.findall(one.attributes))
    products, convolutions, moved = list[Dot](), list[Convolution](), 0
    for name, instructions in computations.items():
        arrays = {one.name: one.result for one in instructions}
        for one in instructions:
            if one.operation == "dot":
                products.append(_product(one, arrays[one.operands[0]][0].sizes))
            elif one.operation == "convolution":
                convolutions.append(_convolution(one, *(arrays[operand][0].sizes for operand in one.operands)))
            if name not in inside and one.operation not in _FREE:
                read = [_bytes(arrays.get(operand, ())) for operand in one.operands]
                if one.operation == "fusion":
                    fused = computations[_CALLED.findall(one.attributes)[0]]
                    read = [min(whole, used) for whole, used in zip(read, _used(fused), strict=True)]
                elif one.operation in _SLICES:
                    read = [_bytes(one.result)]
                moved += _bytes(one.result) + sum(read)
    return Work(tuple(products), tuple(convolutions), moved)


def _bytes(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays)


def _used(fused: list[Instruction]) -> list[int]:
    """Returns the number of bytes that a fusion reads of each operand: those of its slices, or all."""
    found = {}
    for parameter in fused:
        if parameter.operation == "parameter":
            users = [one for one in fused if parameter.name in one.operands]
            slices = all(one.operation in _SLICES and one.operands[0] == parameter.name for one in users)
            used = sum(_bytes(one.result) for one in users) if slices else _bytes(parameter.result)
            found[int(parameter.argument)] = used
    return [found[number] for number in sorted(found)]


def _product(dot: Instruction, left: tuple[int, ...]) -> Dot:
    """Returns the matrix product of a `dot` instruction whose first operand has the dimensions `left`."""
    axes, right_axes = ([int(axis) for axis in _NUMBER.findall(found)] for found in _CONTRACTED.findall(dot.attributes))
    inner = math.prod(left[axis] for axis in axes)
    rows = math.prod(left) // inner
    return Dot(rows, inner, math.prod(dot.result[0].sizes) // rows, 0 in axes, 0 not in right_axes)


def _convolution(one: Instruction, image: tuple[int, ...], kernel: tuple[int, ...]) -> Convolution:
    """Returns the convolution of a `convolution` instruction whose operands have the dimensions `image` and `kernel`.

    The numbers of channels also hold for grouped convolutions: HLO's kernel has the input channels of one group.
    """
    window, labels = _WINDOW.search(one.attributes), _LABELS.search(one.attributes)
    assert labels, f"a convolution without dim_labels: {one.attributes}"
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    of_image, of_kernel, of_result = labels.groups()
    result = one.result[0].sizes
    axes = [str(axis) for axis in range(sum(label.isdigit() for label in of_result))]
    positions, pairs = 1, 1
    for number, axis in enumerate(axes):
        stride, image_step, kernel_step = (
            int(fields[name].split("x")[number]) if name in fields else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(fields["pad"].split("x")[number].partition("_")[0]) if "pad" in fields else 0
        length, steps = image[of_image.index(axis)], result[of_result.index(axis)]
        taps = range(-before, kernel[of_kernel.index(axis)] * kernel_step - before, kernel_step)
        pixels = range(0, length * image_step, image_step)
        positions *= steps
        pairs *= sum(stride * step + tap in pixels for step in range(steps) for tap in taps)
    images, outputs = result[of_result.index("b")], result[of_result.index("f")]
    return Convolution(images, positions, pairs, kernel[of_kernel.index("i")], outputs)


def _computations(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Yields each computation's name and instructions."""
    name, found = "", list[Instruction]()
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name, found = header["name"], list[Instruction]()
        elif line == "}" and name:
            yield name, found
            name = ""
        elif name and (match := _INSTRUCTION.match(line.strip())):
            found.append(_instruction(match))


def _instruction(match: re.Match[str]) -> Instruction:
    operands, _, attributes = match["rest"].partition(")")
    arrays = tuple(
        Array(array["type"], tuple(int(size) for size in array["sizes"].split(",") if size))
        for array in _ARRAY.finditer(match["shape"])
    )
    return Instruction(match["name"], match["operation"], arrays, tuple(_NAME.findall(operands)), attributes, operands)
