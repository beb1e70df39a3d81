"""Packaging: the helper library from lib/, the scripts as they are, examples below share/clusterd."""

import glob
import re

from setuptools import setup

with open("lib/clusterd/__init__.py", encoding="utf-8") as file:
    VERSION = re.search(r'__version__ = "(.+)"', file.read())[1]
with open("README.md", encoding="utf-8") as file:
    README = file.read()

setup(
    name="clusterd",
    version=VERSION,
    description="High availability for a pair of ordinary Linux servers, from cron, rsync, ssh and small scripts",
    long_description=README,
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    package_dir={"": "lib"},
    packages=["clusterd", "clusterd.commands"],
    package_data={"clusterd": ["py.typed"]},
    scripts=sorted(path for path in glob.glob("scripts/*") if "." not in path),
    data_files=[
        ("share/clusterd/conf", glob.glob("conf/*.conf")),
        ("share/clusterd/conf/services", glob.glob("conf/services/*.conf")),
        ("share/clusterd/cron.d", ["cron.d/clusterd"]),
    ],
    install_requires=["configobj>=5.0.9", "python-dateutil>=2.8", "fabric>=3.2"],
    extras_require={
        "etcd": ["etcd3gw>=2.0"],
        "test": ["pytest>=8", "pytest-xdist", "pytest-rerunfailures", "hypothesis", "aiosmtpd", "greenlet"],
        "lint": ["ruff", "mypy", "types-python-dateutil", "types-greenlet"],
    },
)
