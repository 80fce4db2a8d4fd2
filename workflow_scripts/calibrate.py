"""Rule calibrate: second moments of every module's inputs, one file a layer."""

from pathlib import Path

from tensorpress.job import job

with job(snakemake) as device:
    import torch

    from tensorpress.calibration import calibrate
    from tensorpress.evaluation.windows import token_windows
    from tensorpress.loading import load_model, load_tokenizer
    from tensorpress.moments import save_moments
    from tensorpress.oom import CPU

    calibration = snakemake.params.calibration
    settings, model = calibration.settings, calibration.model
    text = Path(snakemake.input.corpus).read_text(encoding="utf-8")
    tokenizer = load_tokenizer(Path(snakemake.input.model))
    count = -(-settings.tokens // settings.window)
    windows = token_windows(tokenizer, text, settings.window, count)
    shapes = model.shapes[:-1]  # the outer one has no inputs
    # calibration brings it to the device, after it has replaced modules
    dtype = getattr(torch, calibration.dtype)
    network = load_model(Path(snakemake.input.model), CPU, dtype)
    layers = calibrate(
        network, model.family, shapes, windows, settings.batch, device, settings.gradients
    )
    save_moments(layers, windows.numel(), Path(snakemake.output[0]))
