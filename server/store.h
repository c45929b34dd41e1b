// What the aggregator remembers: the federation's members, jobs, rounds and who took part. SQLite keeps it today;
// anything with transactions could. Tensors are elsewhere (state_files.h): the store names them by their SHA-256.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/hash.h"
#include "common/result.h"

namespace trib::server {

struct CertificateRecord {
  std::string serial;  // hex; the key of the record
  std::string site;
  bool is_operator = false;
  WallTime not_after{};
  std::string pem;
};

struct SiteRecord {
  std::string name;
  bool is_operator = false;
  WallTime enrolled{};
  std::optional<WallTime> revoked;
  std::string revocation_reason;
  std::optional<WallTime> last_seen =
      {};                             // when it was last connected, to within minutes; none: never, or not kept then
  std::string software_version = {};  // of its client, when it last connected
};

struct SiteSeen {
  std::string site;
  WallTime time{};
  std::string software_version;  // empty: what is kept stays
};

// The newest signed statement of what a site has spent (privacy/statement.h).
struct StatementRecord {
  std::string text;
  WallTime received{};
  std::int64_t head_count = 0;  // entries of the ledger that it was made from
};

struct InviteRecord {
  Sha256 secret_sha256{};  // the secret itself is in the token and nowhere else
  std::string site;
  bool is_operator = false;
  WallTime expires{};
  std::optional<Sha256>
      used_by_key;                 // SHA-256 of the public key (DER) it was redeemed with: the same key may ask again
  std::string certificate_serial;  // what that key got
};

// Who may use the HTTP API (access_tokens.h).
struct AccessTokenRecord {
  Sha256 token_sha256{};  // the key of the record; the token itself is with its holder and nowhere else
  std::string name;
  bool is_operator = false;  // else a viewer's
  WallTime created{};
  std::optional<WallTime> last_used;  // to the minute
  std::optional<WallTime> revoked;
};

struct LedgerHeadRecord {
  std::int64_t count = 0;
  Sha256 hash{};
  WallTime time{};  // when the aggregator heard of it; 1970 if that was not kept
};

enum class JobState { running, finished, failed, cancelled };
std::string_view to_string(JobState state);

struct JobRecord {
  std::string id;
  std::string name;
  std::string task;
  std::string file_text;  // TOML, as checked at submission
  std::string file_name;  // for messages
  JobState state = JobState::running;
  std::string reason;  // how it ended
  WallTime submitted{};
  std::optional<WallTime> ended;
};

// One site's part in one job.
struct JobSiteRecord {
  std::string site;
  bool accepted = false;        // it has accepted the job's offer
  std::string declined_reason;  // without `accepted`: why it refused the offer, which it may reconsider when it
                                // connects again; with it: why it was dropped for the rest of the job
  std::int64_t declared_records = 0;
  std::int64_t turns = 0;  // how often it was chosen; a site that joins late starts at the others' least
  double epsilon_spent = 0.0, epsilon_budget = 0.0;  // of the data set's ledger, as last reported
  double delta = 0.0;                                // at which; 0: it has not said
  std::optional<WallTime> reported = {};             // when it last did
  std::optional<WallTime> declined = {};             // when declined_reason was given
};

// A round is open from its first row until a state is named; round 0 is the initial state.
struct RoundRecord {
  std::int64_t round = 0;
  std::int64_t attempt = 1;  // tries to collect enough contributions
  WallTime opened{};
  std::optional<WallTime> committed;
  std::string state_sha256;  // of the state that the round made; empty while it is open
  std::int64_t contributions = 0;
  double weight = 0.0;
};

enum class RoundSiteStatus { chosen, accepted, declined, contributed };
std::string_view to_string(RoundSiteStatus status);

struct RoundSiteRecord {
  std::string site;
  RoundSiteStatus status = RoundSiteStatus::chosen;
  bool took_part = false;  // it has accepted the round (and so charged its ledger), whatever came of it
  std::string reason;
  // Of its data set's ledger, over all jobs, as it last reported in this round: with what the round cost.
  double epsilon_spent = 0.0, epsilon_budget = 0.0;
  std::optional<WallTime> reported = {};  // when that was; none: it reported nothing, or that was not kept then
  std::optional<WallTime> declined = {};
};

// A site's part in one round of any job, for its history.
struct SiteRoundRecord {
  std::string job;
  std::int64_t round = 0;
  WallTime opened{};  // the round
  RoundSiteRecord part;
};

struct TrafficRecord {
  std::string site;
  std::int64_t round = 0;  // 0: outside rounds (offers, constants)
  std::uint64_t bytes_down = 0, bytes_up = 0;
};

struct EvaluationRecord {
  std::int64_t round = 0;
  std::map<std::string, double> metrics;
};

// What closes a round, in one transaction.
struct RoundCommit {
  std::string job;
  std::int64_t round = 0;
  std::string state_sha256;
  WallTime time{};
  double weight = 0.0;
  std::vector<std::string> contributors;
  std::vector<TrafficRecord> traffic;  // added to what is there
  std::vector<JobSiteRecord> sites;    // replace the rows of these sites
  std::vector<RoundSiteRecord> parts;  // of these sites: what they reported in the round
};

// Every call is one transaction and is on disk when it returns. Thread-safe. Errors: Errc::no_space, io_error or
// corrupt from the storage, with what was being done; others are named at the call.
class Store {
 public:
  virtual ~Store() = default;

  // --- The federation ---
  virtual Status set_value(std::string_view key, std::string_view value) = 0;  // "federation.name", …
  virtual Result<std::optional<std::string>> value(std::string_view key) = 0;
  virtual Status put_invite(const InviteRecord& invite) = 0;
  virtual Result<std::optional<InviteRecord>> find_invite(const Sha256& secret_sha256) = 0;
  // Marks the invite as used by this key, adds the certificate and enrols the site (a revoked site is enrolled anew).
  // Errc::not_found, or already_exists if another key used it.
  virtual Status redeem_invite(const Sha256& secret_sha256, const Sha256& key, const CertificateRecord& certificate,
                               WallTime now) = 0;
  virtual Status add_certificate(const CertificateRecord& certificate) = 0;
  virtual Result<std::optional<CertificateRecord>> find_certificate(std::string_view serial) = 0;
  virtual Result<std::vector<CertificateRecord>> certificates(std::string_view site) = 0;        // oldest first
  virtual Status revoke_site(std::string_view site, std::string_view reason, WallTime now) = 0;  // Errc::not_found
  virtual Result<std::optional<SiteRecord>> find_site(std::string_view name) = 0;
  virtual Result<std::vector<SiteRecord>> sites() = 0;  // by name
  // Sites that are not enrolled are passed over; time never goes back.
  virtual Status note_seen(const std::vector<SiteSeen>& sites) = 0;
  // In the place of the site's earlier one.
  virtual Status put_statement(std::string_view site, const StatementRecord& statement) = 0;
  virtual Result<std::optional<StatementRecord>> statement(std::string_view site) = 0;
  // Keeps the head with the higher count; `data_set` is empty for the whole ledger.
  virtual Status advance_ledger_head(std::string_view site, std::string_view data_set,
                                     const LedgerHeadRecord& head) = 0;
  virtual Result<std::optional<LedgerHeadRecord>> ledger_head(std::string_view site, std::string_view data_set) = 0;

  virtual Status put_access_token(const AccessTokenRecord& token) = 0;  // adds it, or replaces what is known of it
  virtual Result<std::vector<AccessTokenRecord>> access_tokens() = 0;   // oldest first

  // --- Jobs and rounds ---
  virtual Status create_job(const JobRecord& job) = 0;  // Errc::already_exists
  virtual Status end_job(std::string_view job, JobState state, std::string_view reason, WallTime now,
                         const std::vector<TrafficRecord>& traffic) = 0;
  virtual Result<std::vector<JobRecord>> jobs() = 0;  // oldest first
  virtual Status put_job_site(std::string_view job, const JobSiteRecord& site) = 0;
  virtual Result<std::vector<JobSiteRecord>> job_sites(std::string_view job) = 0;  // by name
  // Opens the round, or the next attempt at it, with these further sites; each gets one more turn.
  virtual Status open_round(std::string_view job, std::int64_t round, std::int64_t attempt,
                            const std::vector<std::string>& sites, WallTime now) = 0;
  virtual Status set_round_site(std::string_view job, std::int64_t round, const RoundSiteRecord& site) = 0;
  virtual Result<std::vector<RoundSiteRecord>> round_sites(std::string_view job, std::int64_t round) = 0;
  // Every round that the site was chosen for, over all jobs: by job, oldest first, then by round.
  virtual Result<std::vector<SiteRoundRecord>> site_rounds(std::string_view site) = 0;
  // The rounds of the job that sites declined, by round and site.
  virtual Result<std::vector<SiteRoundRecord>> declined_rounds(std::string_view job) = 0;
  // In how many rounds of the job each site took part.
  virtual Result<std::map<std::string, std::int64_t>> participations(std::string_view job) = 0;
  // The latest committed round of the job that counted a contribution of each site; sites without one are absent.
  virtual Result<std::map<std::string, std::int64_t>> last_counted_rounds(std::string_view job) = 0;
  virtual Status commit_round(const RoundCommit& commit) = 0;  // Errc::already_exists if the round is closed
  virtual Result<std::vector<RoundRecord>> rounds(std::string_view job) = 0;  // in order; an open one is the last
  virtual Status put_evaluation(std::string_view job, const EvaluationRecord& evaluation) = 0;
  virtual Result<std::vector<EvaluationRecord>> evaluations(std::string_view job) = 0;  // in order of rounds
  virtual Result<std::vector<TrafficRecord>> traffic(std::string_view job) = 0;
  // The states that must stay: of each job's last committed round and the one before.
  virtual Result<std::set<std::string>> referenced_states() = 0;
};

}  // namespace trib::server
