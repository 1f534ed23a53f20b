"""The words of monitors are read from DeepSpeed's source text: they are those that it takes."""

from mmllm.checks.configs import monitor_words


def test_they_are_deepspeeds() -> None:
    from deepspeed.monitor import config

    fields = {name: tuple(kind.model_fields) for name, kind in (
        ("tensorboard", config.TensorBoardConfig), ("wandb", config.WandbConfig), ("csv", config.CSVConfig),
        ("comet", config.CometConfig),
    )}  # fmt: skip
    assert monitor_words() == fields
