#include "client/site_status.h"

#include <spdlog/fmt/fmt.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cmath>
#include <cstdio>

#include "common/files.h"
#include "privacy/accountant.h"

namespace trib::client {
namespace {

namespace json = boost::json;

constexpr auto plain_line_interval = std::chrono::seconds(5);

json::value finite_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

json::object to_object(const JobStatus& job, const std::string& id) {
  json::object object{{"id", id},
                      {"name", job.name},
                      {"data_set", job.data_set},
                      {"state", job.state},
                      {"round", job.round},
                      {"rounds", job.rounds},
                      {"rounds_done", job.rounds_done},
                      {"step", job.step},
                      {"steps", job.steps},
                      {"epsilon_spent", finite_or_null(job.epsilon_spent)},
                      {"epsilon_budget", finite_or_null(job.epsilon_budget)}};
  if (job.loss) object["loss"] = finite_or_null(*job.loss);
  if (!job.reason.empty()) object["reason"] = job.reason;
  return object;
}

std::string show_epsilon(double value) {
  return std::isinf(value) ? "unbounded (not private)" : fmt::format("{:.3g}", value);
}

std::string show_bytes(std::uint64_t bytes) {
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  if (bytes < 10'000'000) return fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

std::string show_budget(const JobStatus& job) {
  if (job.epsilon_budget <= 0.0) return "not private";
  return fmt::format("epsilon {} of {:.3g} spent", show_epsilon(job.epsilon_spent), job.epsilon_budget);
}

std::string describe(const JobStatus& job) {
  if (job.state == "refused") return fmt::format("{}: this site takes no part: {}", job.name, job.reason);
  if (job.state == "preparing") return fmt::format("{}: preparing data set '{}'", job.name, job.data_set);
  if (job.state == "declined") return fmt::format("{}: round {} declined: {}", job.name, job.round, job.reason);
  std::string text = fmt::format("{}: round {}/{}", job.name, job.round, job.rounds);
  if (job.round == 0) text = fmt::format("{}: waiting for the first round", job.name);
  if (job.state == "training") text += fmt::format(", step {}/{}", job.step, job.steps);
  if (job.state == "sending") text += ", sending";
  if (job.state == "waiting" && job.round > 0) text += " sent";
  if (job.loss) text += fmt::format(", loss {:.4f}", *job.loss);
  return text + ", " + show_budget(job);
}

}  // namespace

std::string SiteStatus::to_json() const {
  json::object link{{"state", connection.state},
                    {"server", connection.server},
                    {"federation", connection.federation},
                    {"bytes_sent", connection.bytes_sent},
                    {"bytes_received", connection.bytes_received}};
  if (!connection.problem.empty()) link["problem"] = connection.problem;
  if (connection.retry_at) link["retry_at"] = to_iso8601(*connection.retry_at);
  json::array job_list;
  for (const auto& [id, job] : jobs) job_list.push_back(to_object(job, id));
  json::object object{{"site", site},
                      {"device", device},
                      {"process", process},
                      {"time", to_iso8601(time)},
                      {"connection", std::move(link)},
                      {"jobs", std::move(job_list)},
                      {"outbox", {{"entries", outbox_entries}, {"bytes", outbox_bytes}}}};
  if (certificate_expires) object["certificate_expires"] = to_iso8601(*certificate_expires);
  return json::serialize(object);
}

Status write_status(const std::filesystem::path& path, const SiteStatus& status) {
  const std::string text = status.to_json() + "\n";
  const std::filesystem::path temporary = path.native() + ".new";
  std::FILE* file = std::fopen(temporary.c_str(), "w");
  if (file == nullptr) return error_from_errno(errno, "cannot write '" + temporary.native() + "'");
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const int write_error = errno;
  if (std::fclose(file) != 0 || !written) {
    return error_from_errno(written ? errno : write_error, "cannot write '" + temporary.native() + "'");
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return error_from_errno(errno, "cannot replace '" + path.native() + "'");
  }
  return {};
}

ConsoleDisplay::ConsoleDisplay(int descriptor, const Clock& clock)
    : descriptor_(descriptor), is_terminal_(::isatty(descriptor) == 1), clock_(clock) {}

void ConsoleDisplay::line(const std::string& text, bool transient) {
  std::string out = text;
  if (is_terminal_) {
    winsize size{};
    const bool known = ::ioctl(descriptor_, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    if (transient && known && out.size() >= size.ws_col) out.resize(size.ws_col - 1u);
    out = "\r\x1b[K" + out;
  }
  line_open_ = is_terminal_ && transient;
  if (!line_open_) out += '\n';
  // A screen that cannot be written to is no reason to stop training.
  static_cast<void>(write_all(descriptor_, std::as_bytes(std::span(out)), "the screen"));
}

void ConsoleDisplay::finish() {
  if (!line_open_) return;
  line_open_ = false;
  static_cast<void>(write_all(descriptor_, std::as_bytes(std::span("\n", 1)), "the screen"));
}

void ConsoleDisplay::show(const SiteStatus& status) {
  std::string connection = status.connection.state;
  if (connection == "connected") connection = fmt::format("connected to {}", status.connection.server);
  if (!status.connection.problem.empty() && connection == "waiting") connection += ": " + status.connection.problem;
  if (connection != connection_) {
    line(fmt::format("{}: {}", status.site, connection), false);
    connection_ = connection;
  }
  for (const auto& [id, job] : status.jobs) {
    const std::string text = describe(job);
    auto& [said, when] = jobs_[id];
    if (text == said) continue;
    const bool steps_only = job.state == "training" && job.step > 1 && job.step < job.steps;
    if (!is_terminal_ && steps_only && clock_.now() - when < plain_line_interval) continue;
    said = text;
    when = clock_.now();
    const std::string traffic = fmt::format(", {} up, {} down", show_bytes(status.connection.bytes_sent),
                                            show_bytes(status.connection.bytes_received));
    line(fmt::format("{}: {}{}", status.site, text, traffic), job.state == "training" || job.state == "sending");
  }
}

Result<std::string> describe_site(const SiteDirectory& directory, bool as_json) {
  TRIB_ASSIGN(const SiteConfig config, read_site_config(directory.config()));
  std::vector<privacy::LedgerEntry> entries;
  std::error_code error;
  if (std::filesystem::exists(directory.ledger(), error)) {
    TRIB_ASSIGN(entries, privacy::read_ledger(directory.ledger()));
  }
  TRIB_ASSIGN(const std::vector<Outbox::Item> outbox, list_outbox(directory.outbox()));
  json::value daemon = nullptr;
  if (const auto text = read_file(directory.status())) {
    json::error_code parse_error;
    daemon = json::parse(*text, parse_error);
    if (parse_error) daemon = nullptr;
  }

  json::array data_sets;
  std::string text = fmt::format("site {}\n", config.site);
  for (const auto& [name, policy] : config.data_sets) {
    privacy::RdpCurve curve;
    std::int64_t charges = 0;
    for (const auto& entry : entries) {
      if (entry.charge.data_set != name || !entry.spends()) continue;
      curve.add(entry.charge.mechanism);
      ++charges;
    }
    const double delta = policy.budget ? policy.budget->delta : 1e-5;
    const double spent = charges == 0 ? 0.0 : curve.epsilon(delta);
    json::object object{{"name", name},
                        {"records", policy.declared_records},
                        {"charges", charges},
                        {"epsilon_spent", finite_or_null(spent)},
                        {"allow_non_private", policy.allow_non_private},
                        {"share_evaluation", policy.share_evaluation}};
    text += fmt::format("data set {}: {} records declared, {} charges", name, policy.declared_records, charges);
    if (policy.budget) {
      object["epsilon_budget"] = policy.budget->epsilon;
      object["delta"] = delta;
      text += fmt::format(", epsilon {} of {:.4g} spent at delta {:g}\n", show_epsilon(spent), policy.budget->epsilon,
                          delta);
    } else {
      text += ", no budget: private jobs are refused\n";
    }
    data_sets.push_back(std::move(object));
  }
  std::uint64_t bytes = 0;
  for (const auto& item : outbox) bytes += item.bytes;
  text += fmt::format("ledger: {} entries\noutbox: {} contributions, {}\n", entries.size(), outbox.size(),
                      show_bytes(bytes));

  if (as_json) {
    const json::object object{{"site", config.site},
                              {"data_sets", std::move(data_sets)},
                              {"ledger_entries", static_cast<std::int64_t>(entries.size())},
                              {"outbox", {{"entries", static_cast<std::int64_t>(outbox.size())}, {"bytes", bytes}}},
                              {"daemon", std::move(daemon)}};
    return json::serialize(object) + "\n";
  }
  const auto* last = daemon.if_object();
  const auto* link = last != nullptr && last->contains("connection") ? last->at("connection").if_object() : nullptr;
  if (link == nullptr) return text + "daemon: has not run here yet\n";
  const auto field = [](const json::object& object, const char* key) {
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
  };
  text += fmt::format("daemon: {} {} (at {})\n", field(*link, "state"), field(*link, "server"), field(*last, "time"));
  if (const std::string device = field(*last, "device"); !device.empty()) text += "  computes on " + device + "\n";
  if (const std::string problem = field(*link, "problem"); !problem.empty()) text += "  " + problem + "\n";
  return text;
}

}  // namespace trib::client
