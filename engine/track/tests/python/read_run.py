"""Prints a run of an MLflow server, as MLflow's own client reads it: read_run.py URI EXPERIMENT RUN_NAME."""

import json
import sys

from mlflow import MlflowClient

uri, experiment, name = sys.argv[1:]
client = MlflowClient(tracking_uri=uri)
experiment_id = client.get_experiment_by_name(experiment).experiment_id
(run,) = [run for run in client.search_runs([experiment_id]) if run.info.run_name == name]
metrics = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
print(
    json.dumps(
        {
            "status": run.info.status,
            "params": run.data.params,
            "tags": run.data.tags,
            # JSON has no NaN, but Python would write one.
            "metrics": {key: sorted([point.step, repr(point.value)] for point in points) for key, points in metrics.items()},
        }
    )
)
