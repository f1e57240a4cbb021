"""The compiled kernel, for which setup.cfg has no words; an install without a compiler does without it."""

import sys

from setuptools import Extension, setup

KERNEL = Extension(
    "neurocollapse.statistics._kernel",
    ["neurocollapse/statistics/_kernel.c"],
    extra_compile_args=[] if sys.platform == "win32" else ["-O3", "-fopenmp-simd", "-fno-wrapv"],
    py_limited_api=True,
    optional=True,
)

setup(ext_modules=[KERNEL], options={"bdist_wheel": {"py_limited_api": "cp311"}})
