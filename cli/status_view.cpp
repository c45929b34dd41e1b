#include "cli/status_view.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>

#include "cli/job_view.h"
#include "cli/terminal.h"

namespace trib::cli {
namespace {

namespace json = boost::json;

// "2026-11-24 15:04" of an ISO 8601 time.
std::string minute_of(const std::string& time) {
  return time.size() < 16 ? (time.empty() ? "-" : time) : time.substr(0, 10) + " " + time.substr(11, 5);
}

const json::array& list_of(const json::object& object, std::string_view key) {
  static const json::array nothing;
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_array() ? value->as_array() : nothing;
}

bool is_true(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_bool() && value->as_bool();
}

std::string waits_of(const json::object& site) {
  std::string text;
  for (const json::value& value : list_of(site, "waiting_for")) {
    const json::object& wait = value.as_object();
    const std::int64_t round = integer_of(wait, "round");
    text += fmt::format("{}{}{} since {}: {}", text.empty() ? "" : "; ", text_of(wait, "job"),
                        round > 0 ? fmt::format(" round {}", round) : "", minute_of(text_of(wait, "since")),
                        text_of(wait, "reason"));
  }
  return text;
}

std::string sites_text(const json::array& sites) {
  Table table({{"site"}, {"state"}, {"last seen (UTC)"}, {"certificate until"}, {"software"}, {"waited for"}});
  for (const json::value& value : sites) {
    const json::object& site = value.as_object();
    if (is_true(site, "is_operator")) continue;
    const bool is_revoked = !text_of(site, "revoked").empty();
    const std::string state = is_revoked ? "revoked" : is_true(site, "connected") ? "connected" : "away";
    table.add_row({text_of(site, "name"), state, minute_of(text_of(site, "last_seen")),
                   minute_of(text_of(site, "certificate_until")), text_of(site, "software_version"),
                   is_revoked ? text_of(site, "revocation_reason") : waits_of(site)});
  }
  return table.empty() ? "  no sites yet: `trib invite SITE`\n" : table.to_string("  ");
}

std::string budgets_text(const json::array& sites) {
  Table table({{"site"},
               {"data set"},
               {"spent", Align::right},
               {"reserved", Align::right},
               {"of", Align::right},
               {""},
               {"declined", Align::right},
               {"reported (UTC)"}});
  for (const json::value& value : sites) {
    const json::object& site = value.as_object();
    for (const json::value& entry : list_of(site, "data_sets")) {
      const json::object& set = entry.as_object();
      const double spent = number_of(set, "epsilon_spent"), budget = number_of(set, "epsilon_budget");
      const double reserved = number_of(set, "epsilon_reserved");
      const bool has_bar = is_true(set, "private") && std::isfinite(spent) && budget > 0.0;
      table.add_row({text_of(site, "site"), text_of(set, "data_set"),
                     is_true(set, "private") ? format_fixed(spent, 3) : "not private",
                     std::isnan(reserved) ? "-" : format_fixed(reserved, 3),
                     std::isnan(budget) ? "-" : fmt::format("{:g}", budget), has_bar ? bar(spent / budget, 16) : "",
                     std::to_string(integer_of(set, "declined_total")), minute_of(text_of(set, "reported"))});
    }
  }
  return table.empty() ? "  nothing has been reported yet\n" : table.to_string("  ");
}

}  // namespace

std::string render_status(const json::object& document, int width) {
  const json::object& federation = document.at("federation").as_object();
  std::string out = fmt::format(
      "{} ({}), up {}{}\n", bold(text_of(federation, "federation")), text_of(federation, "software_version"),
      format_duration(number_of(federation, "uptime_seconds")), is_true(federation, "draining") ? ", draining" : "");
  out += fmt::format(
      "  {} sessions, {} uploads, {} staged; CA until {}\n", integer_of(federation, "sessions"),
      integer_of(federation, "uploads"),
      format_bytes(number_of(federation, "staging_memory_bytes") + number_of(federation, "staging_disk_bytes")),
      minute_of(text_of(federation, "ca_until")));
  out += "\n" + bold("Sites") + "\n" + sites_text(list_of(document.at("sites").as_object(), "sites"));
  out += "\n" + bold("Privacy budgets") + ", as the sites last reported\n" +
         budgets_text(list_of(document.at("privacy").as_object(), "sites"));
  out += "\n" + bold("Running jobs") + "\n";
  const json::array& jobs = list_of(document, "jobs");
  if (jobs.empty()) out += "  none: `trib job submit JOB`\n";
  for (const json::value& job : jobs)
    for (const std::string& line : job_lines(job)) {
      std::string shown = "  " + line;
      if (width > 0 && shown.size() > 4 * static_cast<std::size_t>(width))
        shown.resize(4 * static_cast<std::size_t>(width));
      out += shown + "\n";
    }
  return out;
}

}  // namespace trib::cli
