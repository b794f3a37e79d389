"""The settings of the process: declared once, read from the environment and from `.env` files, checked together.

Only `app`, `configuration`, `startup`, `cli` and the doctor see `Settings`; every other package gets its own configuration.
"""

from service.settings.declared import SETTING_NAMES, SETTINGS, Settings
from service.settings.loading import load_settings
from service.settings.problems import SettingsRejected
from service.settings.setting import Setting

__all__ = ["SETTINGS", "SETTING_NAMES", "Setting", "Settings", "SettingsRejected", "load_settings"]
