"""What a training process gets from its parent's environment."""

from trainer_svc.qlora.launch import child_environment


def test_a_child_shares_the_cores_unless_the_operator_says_otherwise() -> None:
    assert child_environment(base={})["GOMP_SPINCOUNT"] == "3000"
    assert child_environment(base={"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"


def test_a_child_gets_no_credentials_and_as_many_threads_as_it_is_given() -> None:
    environment = child_environment(3, base={"AWS_SECRET_ACCESS_KEY": "hidden", "PATH": "/bin"})
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert environment["PATH"] == "/bin"
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
