# An image in which the commands of this repository run, as `python -m launch.train` and as `crn train`:
#
#   docker build --tag crn_jax .                           # for CPUs
#   docker build --build-arg DEVICES=cuda13 --tag IMAGE .  # or cuda12, or tpu
#   docker run --rm --gpus all --shm-size 1g --volume DIR:/shared IMAGE python -m launch.train demo --run.folder /shared/runs/demo
#
# The CUDA libraries come with JAX's packages, so the host needs only its driver and NVIDIA's container toolkit. docker/lock writes
# the lock files. Python 3.11 is the version with which the tests run.
FROM python:3.11-slim-bookworm
ARG DEVICES=cpu

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN useradd --create-home --uid 1000 crn && install -d -o crn -g crn /crn_jax
WORKDIR /crn_jax

# The packages come before the code, so that a change of the code does not install them again.
COPY docker/${DEVICES}.txt /opt/requirements.txt
RUN python -m venv /opt/venv && pip install --no-cache-dir --no-deps --require-hashes --requirement /opt/requirements.txt

COPY pyproject.toml README.md LICENSE configs.py ./
COPY crn_jax crn_jax
COPY launch launch
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

USER 1000:1000
CMD ["python", "-m", "launch.doctor"]
