# The trainer with W&B, MLflow and Evidently for spec.training.tracking, on top of a trainer image:
#   docker build -f images/trainer/trackers.Dockerfile --build-arg BASE_IMAGE=<your trainer image> .
# TensorBoard's event files need nothing. Pins are those of the trainer (python -m images lock trainer-trackers).
ARG BASE_IMAGE

FROM ${BASE_IMAGE} AS build
USER 0
COPY requirements/trainer-trackers.txt /tmp/requirements.txt
RUN set -e; \
    python3 -m venv /opt/pip; \
    /opt/pip/bin/pip --python /opt/venv/bin/python3 install --no-cache-dir --no-deps --require-hashes \
      --only-binary=:all: -r /tmp/requirements.txt

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
# Fail the build, not the first training.
RUN cd /tmp && HOME=$(mktemp -d) DO_NOT_TRACK=1 python3 -c "import wandb, mlflow, evidently.presets, torch, onnxruntime, boto3"
USER 65532:65532
