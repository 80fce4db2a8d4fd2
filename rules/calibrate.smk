"""Second moments of the modules' inputs."""

CALIBRATIONS = {each.id: each for each in plan.calibrations.values()}


rule stage_calibrate:
    input:
        ancient(LIVE["calibrate"]),


rule calibrate:
    input:
        model=lambda w: ancient(CALIBRATIONS[w.calibration].model.checkpoint),
        corpus=lambda w: ancient(paths.corpus(CALIBRATIONS[w.calibration].corpus.id)),
    output:
        directory(paths.calibration("{calibration}")),
    log:
        paths.LOGS / "calibrate/{calibration}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: attempt * footprint.calibrate(CALIBRATIONS[w.calibration]).mem_mb,
        runtime=lambda w, attempt: attempt
        * footprint.calibrate(CALIBRATIONS[w.calibration]).runtime,
    params:
        calibration=lambda w: Packed.of(CALIBRATIONS[w.calibration]),
        dtype=lambda w: CALIBRATIONS[w.calibration].dtype,
    script:
        "../workflow_scripts/calibrate.py"
