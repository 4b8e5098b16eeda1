"""Stands for the ceilings."""

import json

print(json.dumps({"tflops": 783.0, "products": {"qkv": 790.0}, "copy_gb_per_s": 4300.0}))
