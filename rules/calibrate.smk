"""Second moments of the modules' inputs."""

CALIBRATIONS = {each.id: each for each in plan.calibrations.values()}


rule stage_calibrate:
    input:
        ancient(LIVE["calibrate"]),


def calibrating(wildcards):
    return footprint.calibrate(CALIBRATIONS[wildcards.calibration])


rule calibrate:
    input:
        model=lambda w: ancient(paths.model(CALIBRATIONS[w.calibration].model.id)),
        corpus=lambda w: ancient(paths.corpus(CALIBRATIONS[w.calibration].corpus.id)),
    output:
        directory(paths.calibration("{calibration}")),
    log:
        paths.LOGS / "calibrate/{calibration}.log",
    benchmark:
        paths.benchmark("calibrate", "{calibration}")
    conda:
        "../envs/compress.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: calibrating(w).mem_mb * attempt,
        runtime=lambda w, attempt: calibrating(w).runtime * attempt,
    params:
        calibration=lambda w: CALIBRATIONS[w.calibration],
    script:
        "../workflow_scripts/calibrate.py"
