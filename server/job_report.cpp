#include "server/job_report.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace trib::server {
namespace {

namespace json = boost::json;

constexpr std::size_t last_evaluations = 10;

double seconds_between(WallTime from, WallTime to) {
  return static_cast<double>((to - from).count()) / 1000.0;
}

// JSON has no infinity: a spent that is not finite (a job that is not private) is null.
json::value number_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

json::value time_or_null(const std::optional<WallTime>& time) {
  return time ? json::value(to_iso8601(*time)) : json::value(nullptr);
}

json::object client_json(const ClientReport& client) {
  return {{"name", client.name},
          {"connected", client.connected},
          {"status", client.status},
          {"reason", client.reason},
          {"declared_records", client.declared_records},
          {"participations", client.participations},
          {"epsilon_spent", number_or_null(client.epsilon_spent)},
          {"epsilon_budget", number_or_null(client.epsilon_budget)},
          {"bytes_down", client.bytes_down},
          {"bytes_up", client.bytes_up},
          {"round", client.round},
          {"step", client.step},
          {"steps", client.steps},
          {"last_progress", time_or_null(client.last_progress)},
          {"waiting_since", time_or_null(client.waiting_since)},
          {"last_seen", time_or_null(client.last_seen)},
          {"software_version", client.software_version}};
}

json::object round_json(const RoundReport& round) {
  const bool committed = round.record.committed.has_value();
  return {{"round", round.record.round},
          {"committed", committed},
          {"attempt", round.record.attempt},
          {"contributions", round.record.contributions},
          {"weight", round.record.weight},
          {"seconds", committed ? json::value(seconds_between(round.record.opened, *round.record.committed))
                                : json::value(nullptr)},
          {"bytes_down", round.bytes_down},
          {"bytes_up", round.bytes_up}};
}

json::value waiting_json(const std::optional<WaitReport>& waiting) {
  if (!waiting) return nullptr;
  return json::object{{"reason", waiting->reason},
                      {"sites", json::value_from(waiting->sites)},
                      {"since", to_iso8601(waiting->since)},
                      {"until", time_or_null(waiting->until)}};
}

json::object result_json(const std::vector<EvaluationRecord>& evaluations) {
  json::object result{{"evaluated", evaluations.size()}};
  if (evaluations.empty()) return result;
  for (const auto& [metric, value] : evaluations.back().metrics) result[metric] = number_or_null(value);
  std::vector<double> accuracies;
  for (const auto& evaluation : evaluations)
    if (const auto found = evaluation.metrics.find("accuracy"); found != evaluation.metrics.end())
      accuracies.push_back(found->second);
  if (const auto spread = spread_of_last(accuracies, last_evaluations)) {
    result["accuracy_mean_last_10"] = number_or_null(spread->mean);
    result["accuracy_std_last_10"] = number_or_null(spread->standard_deviation);
  }
  return result;
}

std::string privacy_statement(const JobReport& report) {
  if (!report.spec.privacy.enabled) return "not private: the job has privacy.enabled = false";
  const bool trusts = report.spec.trusts_aggregator();
  if (report.noise_seeded)
    return std::string("not private: the noise is seeded") + (trusts ? "; and it trusts the aggregator" : "");
  return trusts ? "trusts the aggregator" : "private";
}

json::object summary(const JobReport& report) {
  const std::string privacy = privacy_statement(report);
  const bool has_epsilon = report.spec.privacy.enabled && !report.noise_seeded;
  return {{"id", report.job.id},
          {"name", report.job.name},
          {"task", report.job.task},
          {"state", report.state},
          {"reason", report.reason},
          {"waiting", waiting_json(report.waiting)},
          {"rounds_done", report.rounds_done},
          {"rounds_total", report.spec.rounds},
          {"result", result_json(report.evaluations)},
          {"private", privacy == "private"},
          {"privacy", privacy},
          {"trusts_aggregator", report.spec.trusts_aggregator()},
          {"epsilon", has_epsilon ? json::value(report.spec.privacy.epsilon) : json::value(nullptr)},
          {"delta", has_epsilon ? json::value(report.spec.privacy.delta) : json::value(nullptr)},
          {"submitted", to_iso8601(report.job.submitted)},
          {"ended", time_or_null(report.job.ended)},
          {"seconds", seconds_between(report.job.submitted, report.job.ended.value_or(report.now))}};
}

// --- The table ---

std::string byte_text(double bytes) {
  constexpr std::string_view units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024.0 && unit + 1 < std::size(units); ++unit) bytes /= 1024.0;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

double number_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_number() ? value->to_number<double>() : std::nan("");
}

std::string text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->as_string()) : std::string();
}

std::string percent_text(double value) {
  return std::isnan(value) ? std::string("-") : fmt::format("{:.2f} %", 100.0 * value);
}

// Columns as wide as their widest cell; the first is left-aligned, as are those after which nothing follows.
std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t column = 0; column < row.size(); ++column)
      widths[column] = std::max(widths[column], row[column].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t column = 0; column < row.size(); ++column) {
      const bool left = column == 0 || column + 1 == widths.size();
      line += left ? fmt::format("  {:<{}}", row[column], widths[column])
                   : fmt::format("  {:>{}}", row[column], widths[column]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

void append_waiting(const json::object& document, std::string& text) {
  const json::value* waiting = document.if_contains("waiting");
  if (waiting == nullptr || !waiting->is_object()) return;
  const json::object& wait = waiting->as_object();
  text += fmt::format("waiting  {} (since {}", text_of(wait, "reason"), text_of(wait, "since"));
  const std::string until = text_of(wait, "until");
  text += until.empty() ? ")\n" : fmt::format(", until {})\n", until);
}

void append_evaluations(const json::object& document, std::string& text) {
  // After those that many tasks have, each of the task's own; "group/member" is detail for programs.
  const json::array& evaluated = document.at("evaluations").as_array();
  std::set<std::string, std::less<>> own;
  for (const json::value& value : evaluated) {
    for (const auto& [name, unused] : value.at("metrics").as_object()) {
      const std::string_view metric(name);
      if (metric != "accuracy" && metric != "accuracy_average" && metric != "loss" && metric != "loss_average" &&
          metric.find('/') == std::string_view::npos)
        own.emplace(metric);
    }
  }
  std::vector<std::vector<std::string>> rows = {{"round", "accuracy", "average", "loss"}};
  rows.front().insert(rows.front().end(), own.begin(), own.end());
  rows.front().push_back("");
  for (const json::value& value : evaluated) {
    const json::object& evaluation = value.as_object();
    const json::object& metrics = evaluation.at("metrics").as_object();
    const double loss = number_of(metrics, "loss");
    rows.push_back({fmt::format("{}", evaluation.at("round").as_int64()), percent_text(number_of(metrics, "accuracy")),
                    percent_text(number_of(metrics, "accuracy_average")),
                    std::isnan(loss) ? "-" : fmt::format("{:.4f}", loss)});
    for (const std::string& metric : own) {
      const double number = number_of(metrics, metric);
      rows.back().push_back(std::isnan(number) ? "-" : fmt::format("{:.4g}", number));
    }
    rows.back().emplace_back();
  }
  if (rows.size() > 1) text += "\nEvaluated rounds (public test set)\n" + table_text(rows);
  const json::object& result = document.at("result").as_object();
  if (result.contains("accuracy_mean_last_10"))
    text += fmt::format("  last ten: mean {}, standard deviation {}\n",
                        percent_text(number_of(result, "accuracy_mean_last_10")),
                        percent_text(number_of(result, "accuracy_std_last_10")));
}

void append_clients(const json::object& document, std::string& text) {
  std::vector<std::vector<std::string>> rows = {
      {"site", "records", "rounds", "epsilon", "of", "step", "down", "up", "status"}};
  for (const json::value& value : document.at("clients").as_array()) {
    const json::object& client = value.as_object();
    const auto epsilon = [&](std::string_view key) {
      const double number = number_of(client, key);
      return std::isnan(number) ? std::string("-") : fmt::format("{:.3f}", number);
    };
    const std::string reason = text_of(client, "reason");
    rows.push_back({text_of(client, "name"), fmt::format("{:.0f}", number_of(client, "declared_records")),
                    fmt::format("{:.0f}", number_of(client, "participations")), epsilon("epsilon_spent"),
                    epsilon("epsilon_budget"),
                    fmt::format("{:.0f}/{:.0f}", number_of(client, "step"), number_of(client, "steps")),
                    byte_text(number_of(client, "bytes_down")), byte_text(number_of(client, "bytes_up")),
                    text_of(client, "status") + (reason.empty() ? "" : ": " + reason)});
  }
  if (rows.size() > 1) text += "\nSites\n" + table_text(rows);
}

}  // namespace

std::optional<Spread> spread_of_last(const std::vector<double>& values, std::size_t count) {
  const std::size_t n = std::min(values.size(), count);
  if (n == 0) return std::nullopt;
  const auto first = values.end() - static_cast<std::ptrdiff_t>(n);
  double sum = 0.0;
  for (auto value = first; value != values.end(); ++value) sum += *value;
  const double mean = sum / static_cast<double>(n);
  double squares = 0.0;
  for (auto value = first; value != values.end(); ++value) squares += (*value - mean) * (*value - mean);
  return Spread{mean, n > 1 ? std::sqrt(squares / static_cast<double>(n - 1)) : 0.0};
}

std::string to_json(const JobReport& report) {
  json::object document = summary(report);
  document["round"] = report.open_round;
  document["attempt"] = report.attempt;
  json::array evaluations;
  for (const EvaluationRecord& evaluation : report.evaluations) {
    json::object metrics;
    for (const auto& [metric, value] : evaluation.metrics) metrics[metric] = number_or_null(value);
    evaluations.push_back(json::object{{"round", evaluation.round}, {"metrics", std::move(metrics)}});
  }
  document["evaluations"] = std::move(evaluations);
  json::array clients;
  std::uint64_t bytes_down = 0, bytes_up = 0;
  for (const ClientReport& client : report.clients) {
    clients.push_back(client_json(client));
    bytes_down += client.bytes_down;
    bytes_up += client.bytes_up;
  }
  document["clients"] = std::move(clients);
  json::array rounds;
  for (const RoundReport& round : report.rounds) rounds.push_back(round_json(round));
  document["rounds"] = std::move(rounds);
  document["bytes_down"] = bytes_down;
  document["bytes_up"] = bytes_up;
  document["noise_seeded"] = report.noise_seeded;
  if (report.spec.trusts_aggregator())
    document["aggregator_epsilon_spent"] = number_or_null(report.aggregator_epsilon_spent);
  document["epsilon"] = report.spec.privacy.enabled ? json::value(report.spec.privacy.epsilon) : json::value(nullptr);
  document["delta"] = report.spec.privacy.enabled ? json::value(report.spec.privacy.delta) : json::value(nullptr);
  return json::serialize(document);
}

std::string to_summary_json(const JobReport& report) {
  return json::serialize(summary(report));
}

Result<std::string> render_job_report(std::string_view text) try {
  boost::system::error_code error;
  const json::value parsed = json::parse(text, error);
  if (error || !parsed.is_object())
    return Error{Errc::invalid_argument, "this is not a job's report: it is not a JSON object"};
  const json::object& document = parsed.as_object();
  std::string out = fmt::format("job      {} ({})\n", text_of(document, "id"), text_of(document, "task"));
  const std::string reason = text_of(document, "reason");
  out += fmt::format("state    {}{}\n", text_of(document, "state"), reason.empty() ? "" : ": " + reason);
  append_waiting(document, out);
  out +=
      fmt::format("rounds   {:.0f} of {:.0f}", number_of(document, "rounds_done"), number_of(document, "rounds_total"));
  if (const double round = number_of(document, "round"); round > 0)
    out += fmt::format(", round {:.0f} open (attempt {:.0f})", round, number_of(document, "attempt"));
  out += fmt::format("\nprivacy  {}", text_of(document, "privacy"));
  if (const double epsilon = number_of(document, "epsilon"); !std::isnan(epsilon))
    out += fmt::format(" (epsilon {:g}, delta {:g} for each {})", epsilon, number_of(document, "delta"),
                       std::isnan(number_of(document, "aggregator_epsilon_spent")) ? "site" : "person");
  if (const double spent = number_of(document, "aggregator_epsilon_spent"); !std::isnan(spent))
    out += fmt::format(
        "\n         the noise is the aggregator's, which sees contributions before it; its ledger: {:.4g}", spent);
  out += fmt::format("\ntime     {:.1f} s", number_of(document, "seconds"));
  const double down = number_of(document, "bytes_down"), up = number_of(document, "bytes_up");
  const double done = number_of(document, "rounds_done");
  out += fmt::format("\nbytes    {} down, {} up", byte_text(down), byte_text(up));
  if (done > 0) out += fmt::format("; {} down, {} up a round", byte_text(down / done), byte_text(up / done));
  out += "\n";
  append_evaluations(document, out);
  append_clients(document, out);
  return out;
} catch (const std::exception& error) {  // a key that is missing or of another type
  return Error{Errc::invalid_argument, std::string("this is not a job's report: ") + error.what()};
}

}  // namespace trib::server
