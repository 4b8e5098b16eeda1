"""Stands for the peers: a row for each that is asked for."""

import json
import sys

given = sys.argv[1:]
for option, value in zip(given, given[1:]):
    if option == "--row":
        work, variants = value.split(":")
        found = {"peer": variants.split("/")[0], "work": work, "step_ms": 446.2, "examples_per_s": 35.9}
        found.update(tokens_per_s=12191.0, useful_tflops=345.0, peak_gb=43.2, loss=11.9, gradient_cosine=0.999)
        print(json.dumps(found), flush=True)
