// A store that tests can make fail, or watch: every call that writes passes two hooks.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/store.h"

namespace trib::server::testing {

class HookedStore final : public Store {
 public:
  explicit HookedStore(Store& store) : store_(store) {}
  // Called with the name of the function. An error of `before` is returned instead of the call; either may throw.
  std::function<Status(std::string_view)> before = [](std::string_view) { return Status(); };
  std::function<void(std::string_view)> after = [](std::string_view) {};

  Status set_value(std::string_view key, std::string_view value) override {
    return write("set_value", [&] { return store_.set_value(key, value); });
  }
  Result<std::optional<std::string>> value(std::string_view key) override { return store_.value(key); }
  Status put_invite(const InviteRecord& invite) override {
    return write("put_invite", [&] { return store_.put_invite(invite); });
  }
  Result<std::optional<InviteRecord>> find_invite(const Sha256& secret) override { return store_.find_invite(secret); }
  Status redeem_invite(const Sha256& secret, const Sha256& key, const CertificateRecord& certificate,
                       WallTime now) override {
    return write("redeem_invite", [&] { return store_.redeem_invite(secret, key, certificate, now); });
  }
  Status add_certificate(const CertificateRecord& certificate) override {
    return write("add_certificate", [&] { return store_.add_certificate(certificate); });
  }
  Result<std::optional<CertificateRecord>> find_certificate(std::string_view serial) override {
    return store_.find_certificate(serial);
  }
  Result<std::vector<CertificateRecord>> certificates(std::string_view site) override {
    return store_.certificates(site);
  }
  Status revoke_site(std::string_view site, std::string_view reason, WallTime now) override {
    return write("revoke_site", [&] { return store_.revoke_site(site, reason, now); });
  }
  Result<std::optional<SiteRecord>> find_site(std::string_view name) override { return store_.find_site(name); }
  Result<std::vector<SiteRecord>> sites() override { return store_.sites(); }
  Status note_seen(const std::vector<SiteSeen>& sites) override {
    return write("note_seen", [&] { return store_.note_seen(sites); });
  }
  Status put_statement(std::string_view site, const StatementRecord& statement) override {
    return write("put_statement", [&] { return store_.put_statement(site, statement); });
  }
  Result<std::optional<StatementRecord>> statement(std::string_view site) override { return store_.statement(site); }
  Status advance_ledger_head(std::string_view site, std::string_view data_set, const LedgerHeadRecord& head) override {
    return write("advance_ledger_head", [&] { return store_.advance_ledger_head(site, data_set, head); });
  }
  Result<std::optional<LedgerHeadRecord>> ledger_head(std::string_view site, std::string_view data_set) override {
    return store_.ledger_head(site, data_set);
  }
  Status put_access_token(const AccessTokenRecord& token) override {
    return write("put_access_token", [&] { return store_.put_access_token(token); });
  }
  Result<std::vector<AccessTokenRecord>> access_tokens() override { return store_.access_tokens(); }
  Status create_job(const JobRecord& job) override {
    return write("create_job", [&] { return store_.create_job(job); });
  }
  Status end_job(std::string_view job, JobState state, std::string_view reason, WallTime now,
                 const std::vector<TrafficRecord>& traffic) override {
    return write("end_job", [&] { return store_.end_job(job, state, reason, now, traffic); });
  }
  Result<std::vector<JobRecord>> jobs() override { return store_.jobs(); }
  Status put_job_site(std::string_view job, const JobSiteRecord& site) override {
    return write("put_job_site", [&] { return store_.put_job_site(job, site); });
  }
  Result<std::vector<JobSiteRecord>> job_sites(std::string_view job) override { return store_.job_sites(job); }
  Status open_round(std::string_view job, std::int64_t round, std::int64_t attempt,
                    const std::vector<std::string>& sites, WallTime now) override {
    return write("open_round", [&] { return store_.open_round(job, round, attempt, sites, now); });
  }
  Status set_round_site(std::string_view job, std::int64_t round, const RoundSiteRecord& site) override {
    return write("set_round_site", [&] { return store_.set_round_site(job, round, site); });
  }
  Result<std::vector<RoundSiteRecord>> round_sites(std::string_view job, std::int64_t round) override {
    return store_.round_sites(job, round);
  }
  Result<std::vector<SiteRoundRecord>> site_rounds(std::string_view site) override { return store_.site_rounds(site); }
  Result<std::vector<SiteRoundRecord>> declined_rounds(std::string_view job) override {
    return store_.declined_rounds(job);
  }
  Result<std::map<std::string, std::int64_t>> participations(std::string_view job) override {
    return store_.participations(job);
  }
  Result<std::map<std::string, std::int64_t>> last_counted_rounds(std::string_view job) override {
    return store_.last_counted_rounds(job);
  }
  Status commit_round(const RoundCommit& commit) override {
    return write("commit_round", [&] { return store_.commit_round(commit); });
  }
  Result<std::vector<RoundRecord>> rounds(std::string_view job) override { return store_.rounds(job); }
  Status put_evaluation(std::string_view job, const EvaluationRecord& evaluation) override {
    return write("put_evaluation", [&] { return store_.put_evaluation(job, evaluation); });
  }
  Result<std::vector<EvaluationRecord>> evaluations(std::string_view job) override { return store_.evaluations(job); }
  Result<std::vector<TrafficRecord>> traffic(std::string_view job) override { return store_.traffic(job); }
  Result<std::set<std::string>> referenced_states() override { return store_.referenced_states(); }

 private:
  template <typename Call>
  Status write(std::string_view name, const Call& call) {
    TRIB_TRY(before(name));
    TRIB_TRY(call());
    after(name);
    return {};
  }

  Store& store_;
};

}  // namespace trib::server::testing
