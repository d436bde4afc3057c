"""skunq metrics: numbers about all routes of a store, over HTTP, for Prometheus, autoscalers and probes."""

from __future__ import annotations

import click

from skunkqueue.cli.options import DURATION, LISTEN, queue_option, url_option


@click.command(short_help="Serve numbers about queues over HTTP, for Prometheus and autoscalers.")
@url_option
@queue_option
@click.option(
    "--listen",
    type=LISTEN,
    default="127.0.0.1:9191",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; :9191 is on all interfaces. Whoever can connect can read the names of queues and routes.",
)
@click.option(
    "--fresh", type=DURATION, default="5s", show_default=True, metavar="TIME", help="How long an answer is given again."
)
def metrics(url: str | None, queue: str | None, listen: str, fresh: float) -> None:
    """Serve numbers about the queues of a store over HTTP, until stopped: what waits, for how long, what runs, workers.

    \b
    skunq metrics --listen 127.0.0.1:9191

    Pages: /metrics for Prometheus, /routes.json for autoscalers, /readyz (the store answers), /healthz. How long runs
    take only their pools know: skunq work --metrics.
    """
    from skunkqueue.cli.serve import leaving_on_signals

    with leaving_on_signals() as leaving:
        from skunkqueue.cli import output
        from skunkqueue.metrics.http import Address
        from skunkqueue.metrics.pages import StorePages
        from skunkqueue.metrics.serving import Serving, check_installed
        from skunkqueue.persistence.url import get_backend

        check_installed()
        store = get_backend(url)
        serving = Serving(StorePages(store, queue, fresh=fresh).pages(), Address.parse(listen))
        leaving.stop_too(serving.stop)
        serving.run(lambda where: output.say(f"serving http://{where}/metrics of {store.url}", err=True))
