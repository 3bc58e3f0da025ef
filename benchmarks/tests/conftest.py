"""The cases come from gradbench's pytest plugin for its catalogue, as in any other suite."""

pytest_plugins = ["gradbench.integrations.pytest_plugin.catalogue"]
