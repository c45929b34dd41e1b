// The officer's page: one file, no scripts, nothing to fetch, black on white, and as good on paper as on a screen.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "privacy/statement.h"

namespace trib::privacy {
namespace {

namespace json = boost::json;

constexpr std::string_view kStyle = R"css(
  @page { size: A4; margin: 18mm 16mm; }
  html { font: 16px/1.5 Charter, "Bitstream Charter", "Noto Serif", "Liberation Serif", Georgia, serif; color: #1a1a1a;
         background: #fff; }
  body { max-width: 46rem; margin: 2.5rem auto; padding: 0 1.25rem; }
  h1 { font-size: 1.9rem; line-height: 1.15; margin: 0 0 .35rem; font-weight: 600; }
  h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .9rem; border-top: 1px solid #1a1a1a; font-weight: 600; }
  h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; font-weight: 600; }
  p { margin: .5rem 0; }
  .lead { color: #444; margin: 0 0 1.4rem; }
  .facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem; margin: .8rem 0; }
  .facts dt { color: #555; } .facts dd { margin: 0; }
  .figure { font-size: 1.5rem; font-weight: 600; }
  .figure small { font-size: 1rem; font-weight: 400; color: #444; }
  .bar { height: .8rem; border: 1px solid #1a1a1a; margin: .5rem 0 .2rem; background: #fff; }
  .bar span { display: block; height: 100%; background: #24507a; -webkit-print-color-adjust: exact;
              print-color-adjust: exact; }
  .scale { display: flex; justify-content: space-between; color: #555; font-size: .85rem; }
  .not-private { border: 2px solid #9b1c1c; padding: .6rem .9rem; margin: .8rem 0; }
  .not-private strong { color: #9b1c1c; }
  table { border-collapse: collapse; width: 100%; margin: .6rem 0; font-size: .88rem;
          font-variant-numeric: tabular-nums; }
  th { text-align: left; font-weight: 600; border-bottom: 1px solid #1a1a1a; vertical-align: bottom; }
  td { border-bottom: 1px solid #ccc; vertical-align: top; }
  th, td { padding: .25rem .8rem .25rem 0; } th:last-child, td:last-child { padding-right: 0; }
  sup { line-height: 0; font-size: .75em; }
  .number { text-align: right; white-space: nowrap; } .job { overflow-wrap: anywhere; } .time { white-space: nowrap; }
  code { font: .84em/1.45 "DejaVu Sans Mono", "Liberation Mono", Menlo, monospace; overflow-wrap: anywhere; }
  pre { background: #f4f4f1; padding: .6rem .8rem; margin: .5rem 0; white-space: pre-wrap; }
  li { margin: .35rem 0; } ul, ol { padding-left: 1.3rem; }
  section, table, .not-private { break-inside: avoid; }
  .signature { margin-top: 3rem; display: flex; gap: 3rem; }
  .signature div { flex: 1; border-top: 1px solid #1a1a1a; padding-top: .3rem; color: #555; font-size: .85rem; }
  @media print { html { font-size: 11pt; } body { margin: 0; padding: 0; max-width: none; } }
  @media (max-width: 40rem) { table { display: block; overflow-x: auto; } .facts { grid-template-columns: 1fr; } }
)css";

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? escaped(std::string_view(value->get_string())) : std::string();
}

double number_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_number() ? value->to_number<double>() : std::nan("");
}

std::int64_t integer_of(const json::object& object, std::string_view key) {
  return object.at(key).to_number<std::int64_t>();
}

// "2026-11-24 15:04" of an ISO 8601 time.
std::string minute_of(const std::string& time) {
  return time.size() < 16 ? time : time.substr(0, 10) + " " + time.substr(11, 5);
}

std::string grouped(std::int64_t value) {
  std::string digits = std::to_string(value);
  for (std::size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, "\u2009");
  return digits;
}

std::string definition(std::string_view term, const std::string& description) {
  return fmt::format("<dt>{}</dt><dd>{}</dd>\n", term, description);
}

// "3 × 10⁻⁵", as HTML.
std::string power_of_ten(double value) {
  const int exponent = static_cast<int>(std::floor(std::log10(value)));
  const std::string digits = fmt::format("{:.3g}", value / std::pow(10.0, exponent));
  const std::string power = fmt::format("10<sup>{}{}</sup>", exponent < 0 ? "−" : "", std::abs(exponent));
  return digits == "1" ? power : digits + "\u2009×\u2009" + power;
}

// What an epsilon lets somebody conclude, in words. The best guess between two neighbours with even odds is right with
// probability (e^epsilon + delta) / (e^epsilon + 1) at most (Kairouz, Oh and Viswanath 2015).
std::string meaning(double epsilon, double delta) {
  const double factor = std::exp(epsilon);
  const double right = 100.0 * (1.0 - (1.0 - delta) / (1.0 + factor));
  return fmt::format(
      "<p>Take any single record. Whatever somebody concludes from all that this site has sent, they would have come "
      "to the "
      "same conclusion nearly as often had that record never been here: having it makes no conclusion more than "
      "e<sup>{:.2f}</sup> = {} times as likely, give or take a probability of {}. Somebody who has to tell whether a "
      "given "
      "record was in the data, with even odds before, is right in at most {:.{}f} % of cases.</p>\n",
      epsilon, factor < 1e4 ? fmt::format("{:.1f}", factor) : power_of_ten(factor), power_of_ten(delta), right,
      right > 99.9 ? 3 : 1);
}

std::string budget_section(const json::object& set) {
  const double filter = number_of(set, "epsilon_filter"), tight = number_of(set, "epsilon_tight");
  const auto* budget = set.at("budget").if_object();
  if (budget == nullptr) return "<p>Nothing has been spent on this data set.</p>\n";
  const double cap = number_of(*budget, "epsilon"), share = filter / cap;
  std::string out = fmt::format(
      "<p class=\"figure\">ε = {:.3f} <small>of at most {:g}, at δ = {}</small></p>\n"
      "<div class=\"bar\"><span style=\"width:{:.1f}%\"></span></div>\n"
      "<div class=\"scale\"><span>{:.1f} % of the budget is spent</span><span>cap {:g}</span></div>\n",
      filter, cap, power_of_ten(number_of(*budget, "delta")), 100.0 * std::clamp(share, 0.0, 1.0), 100.0 * share, cap);
  if (share > 1.0) {
    out +=
        "<p>More is spent than today's cap allows: the cap was lowered, or entries that were lost were charged at "
        "their worst. No further private job is accepted.</p>\n";
  }
  out += "<dl class=\"facts\">\n";
  out +=
      definition("By the filter", fmt::format("ε = {:.4f} at Rényi order {:g}, fixed when the budget was opened: what "
                                              "the cap is compared with",
                                              filter, number_of(*budget, "order")));
  out += definition("Tight", fmt::format("ε = {:.4f} for the same rounds, had they been planned in advance", tight));
  out += "</dl>\n";
  return out + meaning(filter, number_of(*budget, "delta"));
}

std::string jobs_table(const json::object& set) {
  std::string out =
      "<table><thead><tr><th>Job</th><th class=\"number\">Rounds</th><th>From, to (UTC)</th><th class=\"number\">Steps"
      "</th><th class=\"number\">Sampling rate</th><th class=\"number\">Noise multiplier</th><th class=\"number\">Clip "
      "norm</th></tr></thead><tbody>\n";
  for (const json::value& value : set.at("jobs").as_array()) {
    const json::object& job = value.as_object();
    const json::array& mechanisms = job.at("mechanisms").as_array();
    const std::string name = text_of(job, "job");
    bool is_first = true;
    for (const json::value& part : mechanisms) {
      const json::object& mechanism = part.as_object();
      const bool is_open = mechanism.at("mechanism").as_string() == "none";
      out += "<tr>";
      if (is_first) {
        out += fmt::format(
            "<td class=\"job\" rowspan=\"{0}\">{1}</td><td class=\"number\" rowspan=\"{0}\">{2}</td><td class=\"time\" "
            "rowspan=\"{0}\">{3}<br>{4}</td>",
            mechanisms.size(), name.empty() ? "lost entries" : name, grouped(integer_of(job, "rounds")),
            minute_of(text_of(job, "first")), minute_of(text_of(job, "last")));
      }
      out += fmt::format("<td class=\"number\">{}</td><td class=\"number\">{:.6g}</td>",
                         grouped(integer_of(mechanism, "steps")), number_of(mechanism, "sample_rate"));
      out += is_open ? "<td colspan=\"2\"><strong>none: not private</strong></td></tr>\n"
                     : fmt::format("<td class=\"number\">{:.6g}{}</td><td class=\"number\">{:.4g}{}</td></tr>\n",
                                   number_of(mechanism, "noise_multiplier"),
                                   text_of(mechanism, "noise") == "float_gaussian" ? "<br>float Gaussian" : "",
                                   number_of(mechanism, "clip_norm"),
                                   text_of(mechanism, "clipping") == "automatic" ? "<br>automatic" : "");
      is_first = false;
    }
  }
  return out + "</tbody></table>\n";
}

std::string versions_table(const json::object& set) {
  const json::array& versions = set.at("versions").as_array();
  if (versions.empty()) return "";
  std::string out =
      "<h3>Versions of the data</h3>\n<table><thead><tr><th>Version</th><th>Since (UTC)</th><th "
      "class=\"number\">Declared "
      "records</th><th class=\"number\">Ledger entry</th></tr></thead><tbody>\n";
  for (const json::value& value : versions) {
    const json::object& version = value.as_object();
    out += fmt::format(
        "<tr><td>{}</td><td class=\"time\">{}</td><td class=\"number\">{}</td><td "
        "class=\"number\">{}</td></tr>\n",
        integer_of(version, "version"), minute_of(text_of(version, "time")),
        grouped(integer_of(version, "declared_records")), integer_of(version, "entry"));
  }
  return out + "</tbody></table>\n";
}

std::string data_set_section(const json::object& set) {
  std::string out = fmt::format("<section><h2>Data set “{}”</h2>\n", text_of(set, "name"));
  out += fmt::format("<p>{} records declared.</p>\n", grouped(integer_of(set, "declared_records")));
  if (!set.at("private").as_bool()) {
    out +=
        "<div class=\"not-private\"><strong>Not private.</strong> A job read these records without differential "
        "privacy, as the site's configuration allows for this data set. No epsilon describes what was released, and "
        "no cap holds for it.</div>\n";
  } else {
    out += budget_section(set);
  }
  if (const std::string open = text_of(set, "read_openly_as"); !open.empty()) {
    out += fmt::format(
        "<div class=\"not-private\"><strong>The same records were read without privacy</strong>, as data set “{}”. The "
        "figures above cover what was released under the name “{}” and nothing else.</div>\n",
        open, text_of(set, "name"));
  }
  if (const std::int64_t lost = integer_of(set, "entries_lost_and_charged"); lost > 0) {
    out += fmt::format(
        "<p>{} of the entries stand for others that were lost (to a crash, or a ledger restored from a "
        "backup) and are charged at the worst that they can have been.</p>\n",
        lost);
  }
  if (!set.at("jobs").as_array().empty()) out += "<h3>Jobs</h3>\n" + jobs_table(set);
  return out + versions_table(set) + "</section>\n";
}

std::string key_changes(const json::object& document) {
  const json::array& changes = document.at("key_changes").as_array();
  std::string out;
  for (const json::value& value : changes) {
    const json::object& change = value.as_object();
    out += fmt::format(
        "<li>Entry {} ({}): the site has signed with another key since, {} by the old one. Reason given: "
        "{}</li>\n",
        integer_of(change, "entry"), minute_of(text_of(change, "time")),
        change.at("countersigned").as_bool() ? "countersigned" : "<strong>not countersigned</strong>",
        text_of(change, "reason"));
  }
  return out.empty() ? out : "<h3>Changes of key</h3>\n<ul>" + out + "</ul>\n";
}

}  // namespace

std::string statement_page(const Statement& statement) {
  const json::object& document = statement.document;
  const json::object& ledger = document.at("ledger").as_object();
  const json::object& head = ledger.at("head").as_object();
  const std::string site = escaped(statement.site);
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>Privacy statement of "
      "{}</title>\n<style>{}</style></head>"
      "\n<body>\n<h1>Privacy statement of {}</h1>\n<p class=\"lead\">What this site has spent of its privacy budgets, "
      "computed from its ledger.</p>\n<dl class=\"facts\">\n",
      site, kStyle, site);
  out += definition("Made", minute_of(text_of(document, "made")) + " UTC");
  out +=
      definition("Covers", fmt::format("{} to {} UTC: {} entries", minute_of(text_of(ledger, "created")),
                                       minute_of(text_of(ledger, "last_entry")), grouped(integer_of(ledger, "lines"))));
  out +=
      definition("Unit", text_of(document, "unit") + "; neighbours differ in that " + text_of(document, "adjacency"));
  out += definition("Sampling", text_of(document, "sampling") + ", anew for every step");
  out += "</dl>\n";
  const json::array& sets = document.at("data_sets").as_array();
  if (sets.empty()) out += "<p>No data set has been used yet.</p>\n";
  for (const json::value& set : sets) out += data_set_section(set.as_object());
  out += "<section><h2>What this rests on</h2>\n<ul>\n";
  for (const json::value& assumption : document.at("assumptions").as_array()) {
    out += "<li>" + escaped(std::string_view(assumption.as_string())) + "</li>\n";
  }
  out += "</ul></section>\n<section><h2>How to check it</h2>\n";
  out += fmt::format(
      "<p>The file <code>statement.json</code> beside this page holds the same figures, signed with the site's key. On "
      "any machine with Tributary:</p>\n<pre><code>trib privacy verify statement.json --certificate certificate.pem"
      "</code></pre>\n<p>checks the signature and computes every epsilon anew from the mechanisms listed above. With "
      "the "
      "ledger at hand, <code>trib privacy verify ledger.jsonl</code> recomputes it from its first line: every hash, "
      "every "
      "signature, every decision of the cap. The aggregator keeps the newest head of each site's ledger (<code>trib "
      "privacy report --server</code>), so a ledger that was shortened or rewritten shows.</p>\n");
  out += "<dl class=\"facts\">\n";
  out += definition("Ledger head",
                    fmt::format("entry {}<br><code>{}</code>", integer_of(head, "count"), text_of(head, "hash")));
  out += definition("Signed with key", "<code>" + escaped(statement.key_sha256) + "</code>");
  out += definition("Statement", "<code>" + escaped(statement.hash) + "</code>");
  out += definition("Signature", "<code>" + escaped(statement.signature) + "</code>");
  out += "</dl>\n" + key_changes(document) + "</section>\n";
  out += "<div class=\"signature\"><div>Place and date</div><div>Data-protection officer</div></div>\n</body></html>\n";
  return out;
}

}  // namespace trib::privacy
