#!/usr/bin/env bash
# The demo with simulated users, two experiments, Prometheus and Grafana, in containers.
#
#   make playground
#   make playground ARGS="recall crowd"    only some of the services, and those that they need
#
# Without a Docker engine it is the demo with simulated users and the experiments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if docker-compose version >/dev/null 2>&1; then
  compose=(docker-compose)
else
  compose=(docker compose)
fi
if ! { docker info && "${compose[@]}" version; } >/dev/null 2>&1; then
  echo 'No Docker engine answers, so there is no Prometheus and no Grafana: the demo, simulated users, experiments.'
  exec make demo ARGS='--crowd 5 --experiments deploy/playground/experiments.toml'
fi

echo 'Building, training, starting: some minutes the first time.'
export EXTRAS=experiments RECGPT_EXPERIMENTS=/etc/recgpt/experiments.toml
"${compose[@]}" --profile playground up -d --build "$@"
explorer="http://localhost:${ADMIN_PORT:-8001}/explorer"
cat <<TEXT

The playground runs:
  $explorer    the explorer
  http://localhost:${GRAFANA_PORT:-3000}    Grafana, with the dashboard
  http://localhost:${PROMETHEUS_PORT:-9090}/alerts    Prometheus, with the alerts

Simulated users ask for five recalls a second and click, and two experiments run on them. Try this:
  1. Look at a user whose list comes from four interests: $explorer#user=196&interests=4
  2. Make trouble: ${compose[*]} stop redis. The dashboard shows fallbacks, and after two minutes an
     alert fires; the answers go on. Then: ${compose[*]} start redis.
  3. Ask for the verdict, in ten minutes:
     ${compose[*]} exec recall sh /etc/recgpt/report.sh

${compose[*]} --profile playground down stops it; -v deletes the trained model and the histories, too.
TEXT
