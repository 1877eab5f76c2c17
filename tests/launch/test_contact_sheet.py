"""`vaedist encode --contact-sheet` as a command, on Ray workers."""

import numpy as np
import pyarrow.dataset
import pytest
from click.testing import CliRunner
from PIL import Image

import vaedist
from vaedist.cli import main
from vaedist.inference.encode import encode_job
from vaedist.inference.extremes import Extremes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_the_command_writes_the_sheet_of_the_encoded_images(trained, tmp_path):
    path, out, sheet = trained.run.path, tmp_path / "out", tmp_path / "sheets/test.png"
    words = ["encode", path, "-o", out, "--split", "test", "--latents", "sample", "--workers", 1, "--rows-per-part", 40]
    words = [*map(str, words), "--contact-sheet", str(sheet)]
    done = CliRunner().invoke(main, words, prog_name="vaedist")
    assert done.exit_code == 0, done.output
    assert f"wrote 96 rows in 3 parts to {out}\nwrote {sheet}\n" in done.stdout
    job = encode_job(vaedist.load_run(path), split="test", rows=40)
    extremes = Extremes(job.source)
    for part in job.parts:
        extremes.add(part, pyarrow.dataset.dataset(out / f"{part.name}.parquet").to_table())
    with Image.open(sheet) as picture:
        np.testing.assert_array_equal(np.asarray(picture), extremes.sheet())
    elbos = pyarrow.dataset.dataset(out).to_table()["elbo"].to_numpy()
    assert [one.elbo for one in extremes.lowest] == np.sort(elbos)[:32].tolist()
    sheet.unlink()
    again = CliRunner().invoke(main, [*words, "--resume"], prog_name="vaedist")
    assert again.exit_code == 0, again.output
    with Image.open(sheet) as picture:
        np.testing.assert_array_equal(np.asarray(picture), extremes.sheet())
