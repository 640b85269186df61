# The trainer with W&B, MLflow and Evidently for spec.training.tracking, on top of a trainer image:
#   docker build -f images/trainer/trackers.Dockerfile --build-arg BASE_IMAGE=<your trainer image> .
# TensorBoard's event files need nothing. Pins are those of the trainer (python -m images lock trainer-trackers), so that
# what is there already stays as it is.
ARG BASE_IMAGE

FROM ${BASE_IMAGE}
USER 0
COPY requirements/trainer-trackers.txt /tmp/requirements.txt
# The last line fails the build, not the first training.
RUN set -e; \
    export HOME=/opt/home DO_NOT_TRACK=1; \
    python3 -m venv /opt/pip; \
    /opt/pip/bin/pip --python /opt/venv/bin/python3 install --no-cache-dir --no-deps --require-hashes \
      --only-binary=:all: -r /tmp/requirements.txt; \
    cd /tmp; \
    python3 -c "import wandb, mlflow, evidently.presets, torch, onnxruntime, boto3"; \
    rm -rf /opt/pip /opt/home /tmp/* /tmp/.[a-z]*
USER 65532:65532
