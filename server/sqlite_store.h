// The store in one SQLite file: WAL, synchronous=FULL, so that a transaction that has returned survives a power cut.
#pragma once

#include <filesystem>
#include <memory>

#include "server/store.h"

namespace trib::server {

class SqliteStore final : public Store {
 public:
  // Opens or creates the file; ":memory:" is a store that dies with the object. Errc::corrupt if it is not a store,
  // unsupported if a newer version of the program wrote it, io_error otherwise.
  static Result<std::unique_ptr<SqliteStore>> open(const std::filesystem::path& path);
  // Looks a store over without changing it, beside a program that uses it: Errc::corrupt, unsupported or io_error.
  static Status check(const std::filesystem::path& path);
  ~SqliteStore() override;

  Status set_value(std::string_view key, std::string_view value) override;
  Result<std::optional<std::string>> value(std::string_view key) override;
  Status put_invite(const InviteRecord& invite) override;
  Result<std::optional<InviteRecord>> find_invite(const Sha256& secret_sha256) override;
  Status redeem_invite(const Sha256& secret_sha256, const Sha256& key, const CertificateRecord& certificate,
                       WallTime now) override;
  Status add_certificate(const CertificateRecord& certificate) override;
  Result<std::optional<CertificateRecord>> find_certificate(std::string_view serial) override;
  Result<std::vector<CertificateRecord>> certificates(std::string_view site) override;
  Status revoke_site(std::string_view site, std::string_view reason, WallTime now) override;
  Result<std::optional<SiteRecord>> find_site(std::string_view name) override;
  Result<std::vector<SiteRecord>> sites() override;
  Status note_seen(const std::vector<SiteSeen>& sites) override;
  Status put_statement(std::string_view site, const StatementRecord& statement) override;
  Result<std::optional<StatementRecord>> statement(std::string_view site) override;
  Status advance_ledger_head(std::string_view site, std::string_view data_set, const LedgerHeadRecord& head) override;
  Result<std::optional<LedgerHeadRecord>> ledger_head(std::string_view site, std::string_view data_set) override;
  Status put_access_token(const AccessTokenRecord& token) override;
  Result<std::vector<AccessTokenRecord>> access_tokens() override;

  Status create_job(const JobRecord& job) override;
  Status end_job(std::string_view job, JobState state, std::string_view reason, WallTime now,
                 const std::vector<TrafficRecord>& traffic) override;
  Result<std::vector<JobRecord>> jobs() override;
  Status put_job_site(std::string_view job, const JobSiteRecord& site) override;
  Result<std::vector<JobSiteRecord>> job_sites(std::string_view job) override;
  Status open_round(std::string_view job, std::int64_t round, std::int64_t attempt,
                    const std::vector<std::string>& sites, WallTime now) override;
  Status set_round_site(std::string_view job, std::int64_t round, const RoundSiteRecord& site) override;
  Result<std::vector<RoundSiteRecord>> round_sites(std::string_view job, std::int64_t round) override;
  Result<std::vector<SiteRoundRecord>> site_rounds(std::string_view site) override;
  Result<std::vector<SiteRoundRecord>> declined_rounds(std::string_view job) override;
  Result<std::map<std::string, std::int64_t>> participations(std::string_view job) override;
  Result<std::map<std::string, std::int64_t>> last_counted_rounds(std::string_view job) override;
  Status commit_round(const RoundCommit& commit) override;
  Result<std::vector<RoundRecord>> rounds(std::string_view job) override;
  Status put_evaluation(std::string_view job, const EvaluationRecord& evaluation) override;
  Result<std::vector<EvaluationRecord>> evaluations(std::string_view job) override;
  Result<std::vector<TrafficRecord>> traffic(std::string_view job) override;
  Result<std::set<std::string>> referenced_states() override;

 private:
  struct Impl;
  explicit SqliteStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib::server
