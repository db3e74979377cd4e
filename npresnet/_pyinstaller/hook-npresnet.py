"""What PyInstaller has to collect: data files, modules that are imported by name, and the sources,
by whose contents compiled code is kept."""
from PyInstaller.utils.hooks import collect_data_files, collect_submodules

datas = collect_data_files("npresnet", include_py_files=True)
hiddenimports = collect_submodules("npresnet", filter=lambda name: "_pyinstaller" not in name)
