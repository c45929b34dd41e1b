#include "server/privacy_report.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <map>

#include "common/net/x509.h"
#include "tasks/job.h"

namespace trib::server {
namespace {

namespace json = boost::json;

struct Spending {
  bool is_private = true;
  double spent = 0.0, budget = 0.0;
  std::int64_t declared_records = 0, rounds = 0;
  json::array jobs, declined;
};

using SitesSpending = std::map<std::string, std::map<std::string, Spending>>;  // site, data set

json::value number_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

json::object declined_round(const std::string& job, std::int64_t round, const std::string& reason) {
  return {{"job", job}, {"round", round}, {"reason", reason}};
}

Status add_job(Store& store, const JobRecord& job, SitesSpending& sites) {
  const auto spec = tasks::read_job_text(job.file_text, job.file_name);
  if (!spec) return {};  // of an older program; what a later job reported covers its spending
  TRIB_ASSIGN(const auto participations, store.participations(job.id));
  TRIB_ASSIGN(const auto parts, store.job_sites(job.id));
  for (const JobSiteRecord& part : parts) {
    Spending& spending = sites[part.site][spec->data_set];
    spending.jobs.emplace_back(job.id);
    if (const auto rounds = participations.find(part.site); rounds != participations.end()) {
      spending.rounds += rounds->second;
      spending.is_private = spending.is_private && spec->privacy.enabled;
    }
    if (part.declared_records > 0) spending.declared_records = part.declared_records;
    if (!std::isfinite(part.epsilon_spent)) spending.is_private = false;
    spending.spent = std::max(spending.spent, part.epsilon_spent);  // a ledger only grows
    if (part.epsilon_budget > 0.0) spending.budget = part.epsilon_budget;
    if (!part.declined_reason.empty()) spending.declined.push_back(declined_round(job.id, 0, part.declined_reason));
  }
  TRIB_ASSIGN(const auto rounds, store.rounds(job.id));
  for (const RoundRecord& round : rounds) {
    TRIB_ASSIGN(const auto answers, store.round_sites(job.id, round.round));
    for (const RoundSiteRecord& answer : answers) {
      if (answer.status != RoundSiteStatus::declined) continue;
      sites[answer.site][spec->data_set].declined.push_back(declined_round(job.id, round.round, answer.reason));
    }
  }
  return {};
}

Result<json::object> site_json(Store& store, const SiteRecord& site, std::map<std::string, Spending>& data_sets) {
  json::object document{{"site", site.name}, {"revoked", site.revoked.has_value()}};
  TRIB_ASSIGN(const auto certificates, store.certificates(site.name));
  document["key_sha256"] = nullptr;
  if (!certificates.empty()) {
    TRIB_ASSIGN(const auto certificate, net::Certificate::from_pem(certificates.back().pem));
    document["key_sha256"] = to_hex(certificate.public_key_sha256());
  }
  TRIB_ASSIGN(const auto head, store.ledger_head(site.name, ""));
  document["ledger_head"] = nullptr;
  if (head) {
    document["ledger_head"] =
        json::object{{"count", head->count},
                     {"hash", to_hex(head->hash)},
                     {"time", head->time == WallTime() ? json::value(nullptr) : json::value(to_iso8601(head->time))}};
  }
  json::array sets;
  for (auto& [name, spending] : data_sets) {
    sets.push_back(json::object{{"data_set", name},
                                {"private", spending.is_private},
                                {"epsilon_spent", spending.is_private ? number_or_null(spending.spent) : nullptr},
                                {"epsilon_budget", spending.budget > 0.0 ? number_or_null(spending.budget) : nullptr},
                                {"declared_records", spending.declared_records},
                                {"jobs", std::move(spending.jobs)},
                                {"rounds", spending.rounds},
                                {"declined", std::move(spending.declined)}});
  }
  document["data_sets"] = std::move(sets);
  return document;
}

}  // namespace

Result<std::string> privacy_report_json(Store& store, const std::string& federation) {
  SitesSpending spending;
  TRIB_ASSIGN(const auto jobs, store.jobs());
  for (const JobRecord& job : jobs) TRIB_TRY(add_job(store, job, spending));
  TRIB_ASSIGN(const auto sites, store.sites());
  json::array documents;
  for (const SiteRecord& site : sites) {
    if (site.is_operator) continue;
    TRIB_ASSIGN(json::object document, site_json(store, site, spending[site.name]));
    documents.push_back(std::move(document));
  }
  return json::serialize(json::object{{"federation", federation}, {"sites", std::move(documents)}});
}

}  // namespace trib::server
