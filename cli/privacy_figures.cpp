#include "cli/privacy_figures.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <limits>
#include <span>

#include "common/files.h"
#include "common/net/x509.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;

boost::json::object data_set_json(const privacy::DataSetFigures& set) {
  const privacy::Account& account = set.account;
  boost::json::object jobs;
  for (const auto& [name, job] : account.jobs) jobs[name] = job.rounds;
  boost::json::array versions;
  for (const privacy::DataVersion& version : account.versions) {
    versions.push_back(boost::json::object{{"version", version.version},
                                           {"entry", version.entry},
                                           {"time", version.time},
                                           {"declared_records", version.declared_records}});
  }
  boost::json::value budget = nullptr;
  if (account.budget) {
    budget = boost::json::object{
        {"epsilon", account.budget->epsilon}, {"delta", account.budget->delta}, {"order", account.budget->order}};
  }
  return {{"data_set", set.name},
          {"private", set.is_private()},
          {"budget", std::move(budget)},
          {"epsilon_filter", number_or_null(set.epsilon_filter)},
          {"epsilon_rdp", number_or_null(set.epsilon_rdp)},
          {"epsilon_tight", number_or_null(set.epsilon_tight)},
          {"delta", set.delta},
          {"charges", account.charges},
          {"entries_lost_and_charged", account.lost},
          {"steps", account.steps},
          {"declared_records", account.declared_records},
          {"read_openly_as",
           set.read_openly_as.empty() ? boost::json::value(nullptr) : boost::json::value(set.read_openly_as)},
          {"versions", std::move(versions)},
          {"rounds_of_job", std::move(jobs)}};
}

}  // namespace

fs::path ledger_path(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error) ? path / "ledger.jsonl" : path;
}

Status check_certificate(const fs::path& file, const std::string& key_sha256, const std::string& site) {
  TRIB_ASSIGN(const std::string pem, read_file(file));
  const auto certificate = net::Certificate::from_pem(pem);
  if (!certificate) return certificate.error().with_context(file.string());
  if (certificate->common_name() != site) {
    return Error{Errc::corrupt, fmt::format("'{}' is the certificate of '{}', not of '{}'", file.string(),
                                            certificate->common_name(), site)};
  }
  if (to_hex(certificate->public_key_sha256()) != key_sha256) {
    return Error{
        Errc::corrupt,
        fmt::format("the key that signed is {}…, but the certificate '{}' is for key {}…: it was not signed by "
                    "this site, or the site has another key since",
                    key_sha256.substr(0, 16), file.string(), to_hex(certificate->public_key_sha256()).substr(0, 16))};
  }
  return {};
}

boost::json::value number_or_null(double value) {
  return std::isfinite(value) ? boost::json::value(value) : boost::json::value(nullptr);
}

boost::json::object figures_json(const privacy::LedgerFigures& figures) {
  boost::json::array sets;
  for (const privacy::DataSetFigures& set : figures.data_sets) sets.push_back(data_set_json(set));
  return {{"ledger", figures.path.string()},
          {"site", figures.file.header.site},
          {"entries", figures.file.entries.size()},
          {"verified", true},
          {"head", to_hex(figures.file.head.hash)},
          {"head_count", figures.file.head.count},
          {"key_sha256", figures.key_sha256},
          {"key_changes", figures.key_changes.size()},
          {"data_sets", std::move(sets)}};
}

std::vector<std::string> notes_of(const privacy::LedgerFigures& figures) {
  std::vector<std::string> notes;
  for (const privacy::DataSetFigures& set : figures.data_sets) {
    if (!set.is_private()) {
      notes.push_back(
          fmt::format("{}: not private since entry {}: no epsilon describes what was released, and no private "
                      "job is accepted any more",
                      set.name, set.account.first_non_private_entry));
    } else if (!set.read_openly_as.empty()) {
      notes.push_back(
          fmt::format("{}: the same records were read without privacy as '{}'; its epsilon covers only what "
                      "was released as '{}'",
                      set.name, set.read_openly_as, set.name));
    }
    if (set.account.lost > 0) {
      notes.push_back(
          fmt::format("{}: {} entries stand for lost ones and are charged at their worst", set.name, set.account.lost));
    }
  }
  for (const privacy::LedgerEntry& change : figures.key_changes) {
    notes.push_back(fmt::format("entry {}: another key since, {} by the old one ({})", change.number,
                                change.countersignature.empty() ? "NOT countersigned" : "countersigned", change.note));
  }
  return notes;
}

}  // namespace trib::cli
