#!/bin/sh
# Prints the verdict on the playground's experiment. It runs in the container of the service, where
# RECGPT_STORE and RECGPT_EXPERIMENTS are set. The report takes the experiment for finished, as it
# should be with a real one (docs/experiments.md).
set -e
recgpt events export --out /tmp/log
recgpt experiment report --name interests --exposures /tmp/log/exposures --events /tmp/log/events \
  --out /tmp/report.html
