"""``insight-rl serve-selector``: host selectors over HTTP for trainers, also those of other frameworks."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.errors import UsageError, check

MIN_TOKEN_LENGTH = 16
_EPILOG = """
examples:
  insight-rl serve-selector                                        for this machine; its address has a page
  insight-rl train selector=remote selector.hosts.name=mopps    a trainer that uses it
  insight-rl serve-selector --host 0.0.0.0 --token-file token.txt  for other machines: wants the token

A token is any text of 16 characters or more, e.g. from `openssl rand -hex 24`. Traffic is not encrypted: put a TLS
proxy before it where the network is not yours. docs/service.md tells the rest.
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl serve-selector", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8700, help="0 takes a free one (default: 8700)")
    parser.add_argument("--data-dir", type=Path, default=Path("selector-service"), help="folder of pools and run logs")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that clients must send")
    parser.add_argument(
        "--token-env", default="INSIGHT_RL_TOKEN", help="environment variable with the token, where there is no file"
    )
    add_own_code_options(parser)
    parser.add_argument("--snapshot-every", type=int, default=500, help="operations of a run between snapshots")
    parser.add_argument("--max-body-mb", type=float, default=16.0, help="largest request, in MiB")
    parser.add_argument("--max-requests-per-s", type=float, default=1000.0, help="of one address")
    parser.add_argument("--max-connections", type=int, default=1000, help="open at once; fewer under a low ulimit -n")
    parser.add_argument(
        "--request-timeout-s", type=float, default=30.0, help="a request must have arrived after so many seconds"
    )
    arguments = parser.parse_args(argv)
    allow_own_code(arguments)
    for name in ("snapshot_every", "max_body_mb", "max_requests_per_s", "max_connections", "request_timeout_s"):
        value = getattr(arguments, name)
        check(value > 0, f"--{name.replace('_', '-')}", value, "must be above 0")
    check(0 <= arguments.port < 2**16, "--port", arguments.port, "must be from 0 to 65535")
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        check(find_spec(module) is not None, "serve-selector", module, "needs `pip install 'insight-rl[serve]'`")
    serve(arguments)
    return 0


def serve(arguments: argparse.Namespace) -> None:
    """Run until SIGINT or SIGTERM; then finish the requests at hand and take snapshots."""
    token = read_token(arguments.token_file, arguments.token_env)
    is_local = is_loopback(arguments.host)
    check(
        is_local or token is not None,
        "--host",
        arguments.host,
        f"other machines can reach this address: give a token with --token-file, or in {arguments.token_env}",
    )
    listener = listen(arguments.host, arguments.port)
    # The SQLite thread releases the GIL at each statement; a shorter switch interval lets it resume at once.
    sys.setswitchinterval(0.0005)

    import uvicorn

    from insight_rl.selector_service.app import make_app
    from insight_rl.selector_service.connections import allowed_connections, bounded_protocol
    from insight_rl.selector_service.hosting import Host
    from insight_rl.selector_service.middleware import Limits
    from insight_rl.selector_service.options import SelectorOptions

    options = SelectorOptions(config_dir=arguments.config_dir)
    host = Host(arguments.data_dir, make_selector=options.make, snapshot_every=arguments.snapshot_every)
    limits = Limits(
        token=token,
        allowed_hosts=frozenset({"127.0.0.1", "localhost", "[::1]", arguments.host}) if is_local else None,
        max_body_bytes=int(arguments.max_body_mb * 2**20),
        max_requests_per_s=arguments.max_requests_per_s,
    )
    name = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(
        f"selector service: http://{name}:{listener.getsockname()[1]}/ ({len(host.runs)} runs in {arguments.data_dir}, "
        f"{'token required' if token else 'no token'})",
        flush=True,
    )
    protocol = bounded_protocol(
        max_connections=allowed_connections(arguments.max_connections), request_timeout_s=arguments.request_timeout_s
    )
    config = uvicorn.Config(
        make_app(host, options, limits),
        http=protocol,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ``UsageError`` if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"--host={host!r} --port={port}: cannot be listened on ({error}); choose another") from error


def read_token(file: Path | None, variable: str) -> str | None:
    """The token of ``file``, else of the environment ``variable``, else none. Raises ``UsageError`` for a weak one."""
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file={str(file)!r}: cannot be read ({error}); give a text file") from error
        source = f"--token-file={str(file)!r}"
    elif os.environ.get(variable):
        token, source = os.environ[variable].strip(), f"{variable} (environment)"
    else:
        return None
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or any(character.isspace() for character in token):
        raise UsageError(
            f"{source}: a token is at least {MIN_TOKEN_LENGTH} ASCII characters without spaces; make one with "
            "`openssl rand -hex 24`"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; for a name: whether all of its addresses are loopback."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise UsageError(f"--host={host!r}: there is no such address ({error}); give one of this machine's") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
