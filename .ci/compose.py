"""A compose project under a name of its own, and queries about its state."""

import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A check did not hold; the message says what was seen."""


class Project:
    """A run of docker-compose.yml with a name, an image tag and ports that nothing else uses."""

    def __init__(self) -> None:
        self.name = f"recgpt-e2e-{secrets.token_hex(4)}"
        self.command = (
            ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        )
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_FILE": "docker-compose.yml",
            "COMPOSE_PROFILES": "",
            "RECGPT_TAG": self.name,
            "PUBLISH_ADDRESS": "127.0.0.1",
            "RECGPT_PORT": "0",
            "ADMIN_PORT": "0",
            "PROMETHEUS_PORT": "0",
            "DOCKER_BUILDKIT": "1",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
        }

    def run(self, *command: str, timeout: float = 120) -> str:
        """Returns the standard output of a command. Raises Failed if the command fails."""
        try:
            result = subprocess.run(
                command,
                cwd=ROOT,
                env=self.environment,
                timeout=timeout,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{' '.join(command)}: still running after {timeout:.0f} s") from error
        if result.returncode != 0:
            output = "\n".join((result.stdout + result.stderr).splitlines()[-60:])
            raise Failed(f"{' '.join(command)}: exit code {result.returncode}\n{output}")
        return result.stdout

    def compose(self, *words: str, timeout: float = 120) -> str:
        """Returns the output of a compose command."""
        return self.run(*self.command, *words, timeout=timeout)

    def state(self, service: str) -> dict[str, Any]:
        """Returns what `docker inspect` reports of a service's container, running or stopped."""
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={self.name}"
        ids = self.run("docker", "ps", "-aq", "--filter", project, "--filter", label).split()
        if len(ids) != 1:
            raise Failed(f"{service}: {len(ids)} containers instead of one")
        state: dict[str, Any] = json.loads(self.run("docker", "inspect", ids[0]))[0]
        return state

    def url(self, service: str, port: int) -> str:
        """Returns the URL at which the engine published a port."""
        address = self.compose("port", service, str(port)).strip()
        if not address.startswith("127.0.0.1:"):
            raise Failed(f"{service} is published on {address!r}, not on the loopback address")
        return f"http://{address}"

    def down(self) -> None:
        """Removes the containers, networks, volumes and images of this run."""
        self.compose("down", "-v", "--remove-orphans", "--timeout", "30")
        for image in self.run("docker", "images", "-q", f"recgpt:{self.name}").split():
            self.run("docker", "image", "rm", "-f", image)
