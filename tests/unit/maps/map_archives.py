"""A MAP's files and configuration as a registry holds them."""

from __future__ import annotations

APP = {
    "apiVersion": "1.0.0", "command": '["python3", "/opt/holoscan/app"]', "environment": {"HOLOSCAN_WORKDIR": "/var/holoscan"},
    "input": {"path": "input/", "formats": ["DICOM"]}, "output": {"path": "output/", "formats": ["DICOM"]}, "sdk": "monai-deploy",
    "sdkVersion": "4.0.0", "timeout": 0, "version": "1.0.0", "workingDirectory": "/var/holoscan",
}  # fmt: skip
PACKAGE = {
    "apiVersion": "1.0.0", "applicationRoot": "/opt/holoscan/app", "modelRoot": "/opt/holoscan/models",
    "models": {"net": "/opt/holoscan/models/net"}, "resources": {"cpu": 1}, "version": "1.0.0",
}  # fmt: skip
NAMES = (
    "INPUT_PATH",
    "OUTPUT_PATH",
    "WORKDIR",
    "APPLICATION",
    "TIMEOUT",
    "MODEL_PATH",
    "CONFIG_PATH",
    "APP_MANIFEST_PATH",
    "PKG_MANIFEST_PATH",
)
IMAGE = {
    "config": {
        "Env": [f"HOLOSCAN_{name}=x" for name in NAMES],
        "Labels": {
            "base": "b", "tag": "t", "org.opencontainers.image.title": "t", "org.opencontainers.image.version": "1.0.0",
            "org.nvidia.holoscan": "4",
        },
        "Entrypoint": ["/var/holoscan/tools"],
        "User": "1000:1000",
    }
}  # fmt: skip
FILES = [
    "/opt/holoscan/app/__main__.py", "/opt/holoscan/models/net/net.ts", "/var/holoscan/tools", "/var/holoscan/app.yaml",
    "/var/holoscan/input/", "var/holoscan/output",
]  # fmt: skip
