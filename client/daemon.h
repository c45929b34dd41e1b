// The client daemon: dials the aggregator, stays connected, and runs the jobs it is offered until it is told to stop.
#pragma once

#include <filesystem>
#include <optional>

#include "client/site_config.h"
#include "common/clock.h"
#include "common/result.h"

namespace trib::client {

struct DaemonOptions {
  SiteDirectory directory;
  Milliseconds drain_timeout{60'000};  // how long a round that has been charged may take to finish after SIGTERM
  int screen = 1;                      // where progress is shown; -1: nowhere
};

// Runs until SIGTERM or SIGINT. Then no round is begun, the one that is being trained may finish within the drain
// timeout (a second signal ends that wait), what is finished stays in the outbox, and the return is ok. Errors are
// those of starting: a directory that has not joined or is in use by another process, a configuration, ledger or outbox
// that cannot be relied on. A ledger that is corrupt is such an error: it names the entry, and nothing is trained.
Status run_daemon(const SiteConfig& config, const DaemonOptions& options, const Clock& clock);

}  // namespace trib::client
