#include "server/privacy_report.h"

#include <boost/json.hpp>
#include <cmath>
#include <map>
#include <mutex>

#include "common/net/x509.h"
#include "server/privacy_figures.h"

namespace trib::server {
namespace {

namespace json = boost::json;

json::value number_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

json::value time_or_null(const std::optional<WallTime>& time) {
  return time && *time != WallTime() ? json::value(to_iso8601(*time)) : json::value(nullptr);
}

// Of a certificate's key, in hexadecimal. Reading a certificate takes a fifth of a millisecond, and a report names
// every site's, so what was read is remembered.
Result<std::string> key_of(const CertificateRecord& record) {
  constexpr std::size_t most = 10'000;
  static std::mutex mutex;
  static std::map<std::string, std::string> known;  // by the certificate
  {
    const std::lock_guard lock(mutex);
    if (const auto found = known.find(record.pem); found != known.end()) return found->second;
  }
  TRIB_ASSIGN(const auto certificate, net::Certificate::from_pem(record.pem));
  std::string key = to_hex(certificate.public_key_sha256());
  const std::lock_guard lock(mutex);
  if (known.size() >= most) known.clear();
  known[record.pem] = key;
  return key;
}

json::object data_set_json(const std::string& name, const DataSetPrivacy& set) {
  json::array jobs, declined;
  for (const std::string& job : set.jobs) jobs.emplace_back(job);
  for (const DeclinedRound& round : set.declined)
    declined.push_back(json::object{
        {"job", round.job}, {"round", round.round}, {"reason", round.reason}, {"time", time_or_null(round.time)}});
  const auto reserved = set.reserved();
  return {{"data_set", name},
          {"private", set.is_private},
          {"epsilon_spent", set.is_private ? number_or_null(set.spent) : nullptr},
          {"epsilon_budget", set.budget > 0.0 ? number_or_null(set.budget) : nullptr},
          {"epsilon_reserved", reserved ? number_or_null(*reserved) : nullptr},
          {"delta", set.delta > 0.0 ? json::value(set.delta) : json::value(nullptr)},
          {"declared_records", set.declared_records},
          {"jobs", std::move(jobs)},
          {"rounds", set.rounds},
          {"declined", std::move(declined)},
          {"declined_total", set.declined_total},
          {"reported", time_or_null(set.reported)}};
}

Result<json::object> site_json(Store& store, const SiteRecord& site, const SitePrivacy& data_sets) {
  json::object document{{"site", site.name}, {"revoked", site.revoked.has_value()}};
  TRIB_ASSIGN(const auto certificates, store.certificates(site.name));
  document["key_sha256"] = nullptr;
  if (!certificates.empty()) {
    TRIB_ASSIGN(const std::string key, key_of(certificates.back()));
    document["key_sha256"] = key;
  }
  TRIB_ASSIGN(const auto head, store.ledger_head(site.name, ""));
  document["ledger_head"] = nullptr;
  if (head)
    document["ledger_head"] =
        json::object{{"count", head->count}, {"hash", to_hex(head->hash)}, {"time", time_or_null(head->time)}};
  json::array sets;
  for (const auto& [name, set] : data_sets) sets.push_back(data_set_json(name, set));
  document["data_sets"] = std::move(sets);
  return document;
}

}  // namespace

Result<std::string> privacy_report_json(Store& store, const std::string& federation, WallTime now,
                                        PrivacyPlans& plans) {
  TRIB_ASSIGN(const PrivacyFigures figures, privacy_figures(store, plans));
  TRIB_ASSIGN(const auto sites, store.sites());
  json::array documents;
  for (const SiteRecord& site : sites) {
    if (site.is_operator) continue;
    const auto found = figures.find(site.name);
    TRIB_ASSIGN(json::object document, site_json(store, site, found == figures.end() ? SitePrivacy() : found->second));
    documents.push_back(std::move(document));
  }
  return json::serialize(
      json::object{{"federation", federation}, {"time", to_iso8601(now)}, {"sites", std::move(documents)}});
}

}  // namespace trib::server
