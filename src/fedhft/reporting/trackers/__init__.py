"""A job's figures for people who look elsewhere: TensorBoard and MLflow, written without their packages.

    figures      what a round is shown as: numbers by name
    opened       from `tensorboard=DIR` or `mlflow=URI` to a tracker
    tensorboard  event files
    mlflow       a tracking server's REST interface

Trackers read what a server tells of a job, so nothing of this is on an agent or a server.
"""
