#include "cli/job_view.h"

#include <cmath>

#include "cli/terminal.h"

namespace trib::cli {
namespace {

namespace json = boost::json;

std::string pad(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::string metric_text(const json::object& metrics, std::string_view key) {
  const double value = number_of(metrics, key);
  return std::isnan(value) ? "-" : format_percent(value);
}

std::string client_line(const json::object& client, std::size_t name_width, bool is_private) {
  std::string line = "  " + pad(text_of(client, "name"), name_width);
  const std::int64_t steps = integer_of(client, "steps"), step = integer_of(client, "step");
  line += "  round " + pad(std::to_string(integer_of(client, "round")), 4) + " " +
          bar(steps > 0 ? static_cast<double>(step) / static_cast<double>(steps) : 0.0, 12) + " " +
          pad(std::to_string(step) + "/" + std::to_string(steps), 7);
  const double spent = number_of(client, "epsilon_spent"), budget = number_of(client, "epsilon_budget");
  if (!is_private) {
    line += " " + pad("not private", 28);
  } else if (!std::isnan(spent) && budget > 0.0) {
    line +=
        " eps " + pad(format_fixed(spent, 2) + " of " + format_fixed(budget, 2), 13) + " " + bar(spent / budget, 10);
  } else {
    line += " " + pad("eps -", 28);  // the site has not said yet
  }
  line += "  " + pad(format_bytes(number_of(client, "bytes_down") + number_of(client, "bytes_up")), 9) + " " +
          text_of(client, "status");
  if (const std::string reason = text_of(client, "reason"); !reason.empty()) line += ": " + reason;
  if (const std::string since = text_of(client, "waiting_since"); since.size() >= 19)
    line += ", waited for since " + since.substr(11, 8);
  return line;
}

}  // namespace

std::string text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->as_string()) : std::string();
}

std::int64_t integer_of(const json::object& object, std::string_view key) {
  const double value = number_of(object, key);
  return std::isnan(value) ? 0 : static_cast<std::int64_t>(value);
}

double number_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_number() ? value->to_number<double>() : std::nan("");
}

std::string accuracy_text(const json::object& report) {
  const json::value* result = report.if_contains("result");
  if (!result || !result->is_object()) return "-";
  const std::string average = metric_text(result->as_object(), "accuracy_average");
  return average != "-" ? average : metric_text(result->as_object(), "accuracy");
}

std::vector<std::string> job_lines(const json::value& value) {
  const json::object& report = value.as_object();
  const json::value* result = report.if_contains("result");
  const bool is_averaged = result && result->is_object() && result->as_object().contains("accuracy_average");
  const auto done = integer_of(report, "rounds_done"), total = integer_of(report, "rounds_total");
  std::vector<std::string> lines;
  lines.push_back(bold(text_of(report, "name")) + "  " +
                  bar(total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0.0, 24) + " round " +
                  std::to_string(done) + "/" + std::to_string(total) +
                  (is_averaged ? "  average's accuracy " : "  accuracy ") + accuracy_text(report) + "  " +
                  format_duration(number_of(report, "seconds")) + "  " + text_of(report, "state"));
  if (const json::value* waiting = report.if_contains("waiting"); waiting && waiting->is_object()) {
    const json::object& wait = waiting->as_object();
    const std::string since = text_of(wait, "since");
    lines.push_back("  waiting: " + text_of(wait, "reason") +
                    (since.size() < 19 ? "" : ", since " + since.substr(11, 8) + " UTC"));
  }
  const bool is_private = !std::isnan(number_of(report, "epsilon"));
  const json::array& clients = report.at("clients").as_array();
  std::size_t name_width = 4;
  for (const auto& client : clients) name_width = std::max(name_width, text_of(client.as_object(), "name").size());
  constexpr std::size_t most = 12;
  for (std::size_t i = 0; i < clients.size() && i < most; ++i)
    lines.push_back(client_line(clients[i].as_object(), name_width, is_private));
  if (clients.size() > most) lines.push_back("  and " + std::to_string(clients.size() - most) + " more");
  return lines;
}

std::vector<std::string> JobProgressLog::new_lines(const json::value& value) {
  const json::object& report = value.as_object();
  std::vector<std::string> lines;
  const json::array& evaluations = report.at("evaluations").as_array();
  for (; evaluations_seen_ < evaluations.size(); ++evaluations_seen_) {
    const json::object& evaluation = evaluations[evaluations_seen_].as_object();
    const json::object& metrics = evaluation.at("metrics").as_object();
    lines.push_back("round " + pad(std::to_string(integer_of(evaluation, "round")), 4) + " accuracy " +
                    pad(metric_text(metrics, "accuracy"), 8) + " running average " +
                    metric_text(metrics, "accuracy_average"));
  }
  const std::string state = text_of(report, "state");
  if (!ended_ && (state == "finished" || state == "failed" || state == "cancelled")) {
    ended_ = true;
    const std::string reason = text_of(report, "reason");
    lines.push_back(state + (reason.empty() ? "" : ": " + reason));
  }
  return lines;
}

}  // namespace trib::cli
