"""The settings of the process: declared once, read from the environment and from `.env` files, checked together.

Only `app`, `cli` and the doctor see `Settings`; every other room gets its own small configuration.
"""

from service.settings.declared import SETTING_NAMES, SETTINGS, Setting
from service.settings.loading import Settings, SettingsRejected

__all__ = ["SETTINGS", "SETTING_NAMES", "Setting", "Settings", "SettingsRejected"]
