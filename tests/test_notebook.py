"""The notebook of the documentation, executed in a kernel, on few images."""

import os
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from pages import DOCS

PARAMETERS = "images, epochs = 10_000, 5"
# With PYTEST_CURRENT_TEST, a kernel would not capture what libraries write to file descriptors.
NOT_OF_USERS = ("PYTEST_CURRENT_TEST", "TF_CPP_MIN_LOG_LEVEL", "RAY_ADDRESS")


@pytest.mark.slow
@pytest.mark.ray
def test_the_notebook_runs_and_prints_nothing_of_its_libraries(tmp_path):
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.source == PARAMETERS]
    cell.source = "images, epochs = 480, 2"
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OF_USERS}
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "stream"] == []
    progress, *results = [output.data for output in outputs]
    assert "epoch 2/2, step 60/60: finished: test ELBO -" in progress["text/plain"]
    assert "<progress" in progress["text/html"]
    assert ["image/png" in result for result in results] == [True, True, False, True]
    assert "Estimate(mean=" in results[2]["text/plain"]
    assert (tmp_path / "runs" / "notebook" / "pictures" / "samples.png").exists()


def test_the_committed_outputs_are_free_of_messages():
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.output_type for output in outputs] == [*["display_data"] * 3, "execute_result", "display_data"]


def test_the_kernel_is_that_of_the_tests():
    from jupyter_client.kernelspec import KernelSpecManager

    assert KernelSpecManager().get_kernel_spec("python3").argv[0] in ("python", sys.executable)
