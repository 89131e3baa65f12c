import pytest

from visor_jax.runtime import processes
from visor_jax.runtime.agreement import check_agreement, code_digest, differences
from visor_jax.runtime.processes import ProcessSettings

SLURM_STEP = {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-2]"}


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        (SLURM_STEP, True),
        # The script of a job, before srun.
        ({"SLURM_NTASKS": "4"}, False),
        ({**SLURM_STEP, "SLURM_NTASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a.b,c.d"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_launchers_are_recognised(environment, several):
    assert processes.is_one_of_several(environment) == several


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 2}, "go together"),
        ({"index": 0}, "go together"),
        ({"count": 2, "index": 0}, "needs --coordinator=HOST:PORT"),
        ({"count": 2, "index": 2, "coordinator": "a:1"}, "process_id=2 is not in 0..1"),
        ({"coordinator": "host"}, "is not HOST:PORT"),
        ({"timeout_s": 0}, "start_timeout=0"),
    ],
)
def test_settings_that_leave_something_open_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ProcessSettings(**settings)


def test_a_cpu_is_refused_where_an_accelerator_is_meant():
    for wanted in ("any", "cpu"):
        processes.check_platform(wanted)
    for wanted in ("accelerator", "tpu", "gpu"):
        with pytest.raises(ValueError, match=r"jax found 'cpu'.*platform=cpu"):
            processes.check_platform(wanted)


def test_one_process_waits_for_nobody():
    with processes.first_process_first("work"):
        processes.wait_for_all("the end")
    processes.check_started()
    check_agreement({"code": "1"})
    assert processes.describe_process() == "process 0 of 1, 8 of 8 devices"


def test_every_difference_names_its_process():
    first = {"jax": "0.10.2", "code": "a"}
    others = [{**first}, {"jax": "0.10.1", "code": "a"}, {"jax": "0.10.2", "data": "d"}]
    assert differences([first, *others]) == [
        "process 2 has jax 0.10.1, process 0 has 0.10.2",
        "process 3 has code (absent), process 0 has a",
        "process 3 has data d, process 0 has (absent)",
    ]


def test_the_digest_tells_changed_renamed_and_new_files(tmp_path):
    def digest(**files):
        for file in tmp_path.iterdir():
            file.unlink()
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / "notes.txt").write_text(str(files))
        return code_digest(tmp_path)

    different = [
        digest(a="1"), digest(a="2"), digest(b="1"), digest(a="1", b=""),
        digest(a="1b", b=""), digest(a="1", b="b"),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert digest(a="1") == different[0]
