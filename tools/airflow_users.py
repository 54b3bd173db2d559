"""Users of every role for a local Airflow, by its SimpleAuthManager."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: A user has the role's name, and its password is the same.
ROLES = ("admin", "op", "user", "viewer")


def with_users(home: Path, **others: str) -> dict[str, str]:
    """Write the users' passwords into ``home``, and return the settings that make Airflow ask for them.

    :param others: roles of further users, by name.
    """
    home.mkdir(parents=True, exist_ok=True)
    users = {**{role: role for role in ROLES}, **others}
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({name: name for name in users}))
    return {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in users.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
    }
