// Looks a machine's setup over, without changing it: what would keep a site or an aggregator from working, and what to
// do about it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"

namespace trib::cli {

enum class Health { ok, warn, fail };
std::string_view to_string(Health health);

struct Check {
  std::string name;  // "ledger", "data set 'letters'", …
  Health health = Health::ok;
  std::string found;
  std::string remedy;  // empty where all is well
};

struct DoctorOptions {
  Milliseconds connect_timeout{5'000};
  const Clock& clock = system_clock();
};

// A site's directory: configuration, disk, key and certificate, clock, ledger, data files, device, the way to the
// aggregator. Takes no lock: a client may run.
std::vector<Check> examine_site(const std::filesystem::path& directory, const DoctorOptions& options = {});
// An aggregator's: configuration, disk, CA and certificate, clock, store, models, device, port.
std::vector<Check> examine_server(const std::filesystem::path& directory, const DoctorOptions& options = {});

}  // namespace trib::cli
