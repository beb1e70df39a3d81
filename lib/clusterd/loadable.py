"""What a watchdog must be able to read before it starts. A running one tries it before it makes room for the next."""

from clusterd import arbiter, config, configtrust, keyfile
from clusterd.model import Config


def load(folder: str) -> tuple[Config, keyfile.Keys]:
    """The configuration in `folder` and the secrets of the heartbeats.

    Raises:
        ConfigError: the first problem, with these, with the folders that clusterd keeps, or with etcd's password.
    """
    settings = config.load(folder)
    configtrust.check_folders()
    keys = keyfile.read(settings)
    arbiter.password(settings)
    return settings, keys
