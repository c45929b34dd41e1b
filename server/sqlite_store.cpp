#include "server/sqlite_store.h"

#include <iterator>
#include <mutex>

#include "common/failpoint.h"
#include "server/sqlite_database.h"

namespace trib::server {
namespace {

constexpr int base_version = 2;    // of `schema`
constexpr int schema_version = 4;  // with all that is in `upgrades`

// Times are milliseconds since 1970; hashes are blobs; names and states are text, so that `sqlite3 store.db` can be
// read.
constexpr const char* schema = R"sql(
CREATE TABLE federation (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sites (name TEXT PRIMARY KEY, is_operator INTEGER NOT NULL, enrolled INTEGER NOT NULL, revoked INTEGER,
                    revocation_reason TEXT NOT NULL DEFAULT '');
CREATE TABLE certificates (serial TEXT PRIMARY KEY, site TEXT NOT NULL, is_operator INTEGER NOT NULL,
                           not_after INTEGER NOT NULL, pem TEXT NOT NULL);
CREATE INDEX certificates_of_a_site ON certificates (site);
CREATE TABLE invites (secret_sha256 BLOB PRIMARY KEY, site TEXT NOT NULL, is_operator INTEGER NOT NULL,
                      expires INTEGER NOT NULL, used_by_key BLOB, certificate_serial TEXT NOT NULL DEFAULT '');
CREATE TABLE ledger_heads (site TEXT NOT NULL, data_set TEXT NOT NULL, count INTEGER NOT NULL, hash BLOB NOT NULL,
                           time INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (site, data_set));
CREATE TABLE jobs (id TEXT PRIMARY KEY, name TEXT NOT NULL, task TEXT NOT NULL, file_text TEXT NOT NULL,
                   file_name TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, submitted INTEGER NOT NULL,
                   ended INTEGER);
CREATE TABLE job_sites (job TEXT NOT NULL REFERENCES jobs (id), site TEXT NOT NULL, accepted INTEGER NOT NULL,
                        declined_reason TEXT NOT NULL, declared_records INTEGER NOT NULL, turns INTEGER NOT NULL,
                        epsilon_spent REAL NOT NULL, epsilon_budget REAL NOT NULL, PRIMARY KEY (job, site));
CREATE TABLE rounds (job TEXT NOT NULL REFERENCES jobs (id), round INTEGER NOT NULL, attempt INTEGER NOT NULL,
                     opened INTEGER NOT NULL, committed INTEGER, state_sha256 TEXT NOT NULL DEFAULT '',
                     contributions INTEGER NOT NULL DEFAULT 0, weight REAL NOT NULL DEFAULT 0,
                     PRIMARY KEY (job, round));
CREATE TABLE round_sites (job TEXT NOT NULL REFERENCES jobs (id), round INTEGER NOT NULL, site TEXT NOT NULL,
                          status TEXT NOT NULL, took_part INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
                          PRIMARY KEY (job, round, site));
CREATE TABLE traffic (job TEXT NOT NULL REFERENCES jobs (id), round INTEGER NOT NULL, site TEXT NOT NULL,
                      bytes_down INTEGER NOT NULL, bytes_up INTEGER NOT NULL, PRIMARY KEY (job, round, site));
CREATE TABLE evaluations (job TEXT NOT NULL REFERENCES jobs (id), round INTEGER NOT NULL, metric TEXT NOT NULL,
                          value REAL, PRIMARY KEY (job, round, metric));
)sql";

// upgrades[v - 1] makes version v + 1 of version v. A new store is the base and the upgrades after it, so that it has
// the same tables as one that has come all the way.
constexpr const char* upgrades[] = {"ALTER TABLE ledger_heads ADD COLUMN time INTEGER NOT NULL DEFAULT 0;",
                                    R"sql(
ALTER TABLE sites ADD COLUMN last_seen INTEGER;
ALTER TABLE sites ADD COLUMN software_version TEXT NOT NULL DEFAULT '';
ALTER TABLE job_sites ADD COLUMN delta REAL NOT NULL DEFAULT 0;
ALTER TABLE job_sites ADD COLUMN reported INTEGER;
ALTER TABLE job_sites ADD COLUMN declined INTEGER;
ALTER TABLE round_sites ADD COLUMN epsilon_spent REAL NOT NULL DEFAULT 0;
ALTER TABLE round_sites ADD COLUMN epsilon_budget REAL NOT NULL DEFAULT 0;
ALTER TABLE round_sites ADD COLUMN reported INTEGER;
ALTER TABLE round_sites ADD COLUMN declined INTEGER;
CREATE INDEX rounds_of_a_site ON round_sites (site);
CREATE INDEX rounds_taken_part_in ON round_sites (job, site) WHERE took_part;
CREATE INDEX rounds_declined ON round_sites (job) WHERE status = 'declined';
CREATE TABLE statements (site TEXT PRIMARY KEY, text TEXT NOT NULL, received INTEGER NOT NULL,
                         head_count INTEGER NOT NULL);
)sql",
                                    R"sql(
CREATE TABLE access_tokens (token_sha256 BLOB PRIMARY KEY, name TEXT NOT NULL, is_operator INTEGER NOT NULL,
                            created INTEGER NOT NULL, last_used INTEGER, revoked INTEGER);
)sql"};
static_assert(std::size(upgrades) == schema_version - 1);

template <typename Enum>
Result<Enum> parse_enum(std::string_view text, std::initializer_list<Enum> values) {
  for (const Enum value : values)
    if (to_string(value) == text) return value;
  return Error{Errc::corrupt, "the store has the unknown state '" + std::string(text) + "'"};
}

CertificateRecord read_certificate(const Statement& row) {
  return {row.text(0), row.text(1), row.boolean(2), row.time(3), row.text(4)};
}

SiteRecord read_site(const Statement& row) {
  return {row.text(0), row.boolean(1),       row.time(2), row.optional_time(3),
          row.text(4), row.optional_time(5), row.text(6)};
}

Result<RoundSiteStatus> parse_status(std::string_view text) {
  return parse_enum(text, {RoundSiteStatus::chosen, RoundSiteStatus::accepted, RoundSiteStatus::declined,
                           RoundSiteStatus::contributed});
}

// The rest of a round's site, from the column `first` on: round_site_columns.
constexpr const char* round_site_columns =
    "round_sites.site, round_sites.status, took_part, round_sites.reason, epsilon_spent, epsilon_budget, reported, "
    "declined";
Result<RoundSiteRecord> read_round_site(const Statement& row, int first) {
  RoundSiteRecord site;
  site.site = row.text(first);
  TRIB_ASSIGN(site.status, parse_status(row.text(first + 1)));
  site.took_part = row.boolean(first + 2);
  site.reason = row.text(first + 3);
  site.epsilon_spent = row.real(first + 4);
  site.epsilon_budget = row.real(first + 5);
  site.reported = row.optional_time(first + 6);
  site.declined = row.optional_time(first + 7);
  return site;
}

Result<std::vector<SiteRoundRecord>> read_site_rounds(Statement& row) {
  std::vector<SiteRoundRecord> rounds;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return rounds;
    SiteRoundRecord record{row.text(0), row.integer(1), row.time(2), {}};
    TRIB_ASSIGN(record.part, read_round_site(row, 3));
    rounds.push_back(std::move(record));
  }
}

Status insert_certificate(sqlite3* database, const CertificateRecord& certificate) {
  Statement insert(database, "recording the certificate of " + certificate.site,
                   "INSERT INTO certificates VALUES (?, ?, ?, ?, ?)", certificate.serial, certificate.site,
                   certificate.is_operator, certificate.not_after, certificate.pem);
  TRIB_TRY(insert.run());
  return {};
}

Status upsert_job_site(sqlite3* database, std::string_view job, const JobSiteRecord& site) {
  Statement upsert(database, "recording the part of " + site.site + " in job " + std::string(job),
                   "INSERT OR REPLACE INTO job_sites (job, site, accepted, declined_reason, declared_records, turns, "
                   "epsilon_spent, epsilon_budget, delta, reported, declined) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                   job, site.site, site.accepted, site.declined_reason, site.declared_records, site.turns,
                   site.epsilon_spent, site.epsilon_budget, site.delta, site.reported, site.declined);
  TRIB_TRY(upsert.run());
  return {};
}

Status add_traffic(sqlite3* database, std::string_view job, const std::vector<TrafficRecord>& traffic) {
  for (const TrafficRecord& record : traffic) {
    Statement add(database, "recording the traffic of job " + std::string(job),
                  "INSERT INTO traffic VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                  "bytes_down = bytes_down + excluded.bytes_down, bytes_up = bytes_up + excluded.bytes_up",
                  job, record.round, record.site, record.bytes_down, record.bytes_up);
    TRIB_TRY(add.run());
  }
  return {};
}

}  // namespace

std::string_view to_string(JobState state) {
  switch (state) {
    case JobState::running:
      return "running";
    case JobState::finished:
      return "finished";
    case JobState::failed:
      return "failed";
    case JobState::cancelled:
      return "cancelled";
  }
  return "";
}

std::string_view to_string(RoundSiteStatus status) {
  switch (status) {
    case RoundSiteStatus::chosen:
      return "chosen";
    case RoundSiteStatus::accepted:
      return "accepted";
    case RoundSiteStatus::declined:
      return "declined";
    case RoundSiteStatus::contributed:
      return "contributed";
  }
  return "";
}

struct SqliteStore::Impl {
  std::mutex mutex;
  Database database;
};

SqliteStore::SqliteStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SqliteStore::~SqliteStore() = default;

Result<std::unique_ptr<SqliteStore>> SqliteStore::open(const std::filesystem::path& path) {
  const std::string what = "opening the store " + path.string();
  auto impl = std::make_unique<Impl>();
  sqlite3* opened = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &opened, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  impl->database.reset(opened);
  if (code != SQLITE_OK) return sqlite_error(opened, what);
  sqlite3_busy_timeout(opened, 5000);  // a backup may hold the file for a moment
  for (const char* pragma : {"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON"})
    TRIB_TRY(Statement(opened, what, pragma).step());
  TRIB_ASSIGN(auto transaction, Transaction::begin(opened, what));
  Statement version_row(opened, what, "PRAGMA user_version");
  TRIB_TRY(version_row.step());
  const auto version = version_row.integer(0);
  if (version > schema_version)
    return Error{Errc::unsupported, what + ": it has version " + std::to_string(version) +
                                        ", this program knows versions up to " + std::to_string(schema_version) +
                                        "; update the program"};
  if (version < schema_version) {
    std::string statements = version == 0 ? schema : "";
    for (auto from = version == 0 ? base_version : version; from < schema_version; ++from)
      statements += upgrades[from - 1];
    if (sqlite3_exec(opened, statements.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK)
      return sqlite_error(opened, what);
    const std::string set_version = "PRAGMA user_version = " + std::to_string(schema_version);
    TRIB_TRY(Statement(opened, what, set_version.c_str()).step());
  }
  TRIB_TRY(transaction.commit());
  return std::unique_ptr<SqliteStore>(new SqliteStore(std::move(impl)));
}

Status SqliteStore::check(const std::filesystem::path& path) {
  const std::string what = "checking the store " + path.string();
  sqlite3* opened = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &opened, SQLITE_OPEN_READONLY, nullptr);
  const Database database(opened);
  if (code != SQLITE_OK) return sqlite_error(opened, what);
  sqlite3_busy_timeout(opened, 5000);
  Statement version(opened, what, "PRAGMA user_version");
  TRIB_TRY(version.step());
  if (version.integer(0) > schema_version)
    return Error{Errc::unsupported, what + ": a newer version of the program wrote it; update this one"};
  Statement sound(opened, what, "PRAGMA quick_check(1)");
  TRIB_TRY(sound.step());
  if (sound.text(0) != "ok") return Error{Errc::corrupt, what + ": " + sound.text(0)};
  return {};
}

// --- The federation ---

Status SqliteStore::set_value(std::string_view key, std::string_view value) {
  std::lock_guard lock(impl_->mutex);
  Statement set(impl_->database.get(), "recording " + std::string(key),
                "INSERT OR REPLACE INTO federation VALUES (?, ?)", key, value);
  TRIB_TRY(set.run());
  return {};
}

Result<std::optional<std::string>> SqliteStore::value(std::string_view key) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading " + std::string(key), "SELECT value FROM federation WHERE key = ?",
                key);
  TRIB_ASSIGN(const bool found, row.step());
  return found ? std::optional(row.text(0)) : std::nullopt;
}

Status SqliteStore::put_invite(const InviteRecord& invite) {
  std::lock_guard lock(impl_->mutex);
  Statement put(impl_->database.get(), "recording the invite of " + invite.site,
                "INSERT INTO invites VALUES (?, ?, ?, ?, ?, ?)", invite.secret_sha256, invite.site, invite.is_operator,
                invite.expires, invite.used_by_key, invite.certificate_serial);
  TRIB_TRY(put.run());
  return {};
}

Result<std::optional<InviteRecord>> SqliteStore::find_invite(const Sha256& secret_sha256) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading an invite", "SELECT * FROM invites WHERE secret_sha256 = ?",
                secret_sha256);
  TRIB_ASSIGN(const bool found, row.step());
  if (!found) return std::optional<InviteRecord>();
  InviteRecord invite{row.sha256(0), row.text(1), row.boolean(2), row.time(3), std::nullopt, row.text(5)};
  if (!row.is_null(4)) invite.used_by_key = row.sha256(4);
  return std::optional(std::move(invite));
}

Status SqliteStore::redeem_invite(const Sha256& secret_sha256, const Sha256& key, const CertificateRecord& certificate,
                                  WallTime now) {
  std::lock_guard lock(impl_->mutex);
  sqlite3* database = impl_->database.get();
  const std::string what = "enrolling " + certificate.site;
  TRIB_ASSIGN(auto transaction, Transaction::begin(database, what));
  Statement row(database, what, "SELECT used_by_key FROM invites WHERE secret_sha256 = ?", secret_sha256);
  TRIB_ASSIGN(const bool found, row.step());
  if (!found) return Error{Errc::not_found, what + ": there is no such invite"};
  if (!row.is_null(0) && row.sha256(0) != key)
    return Error{Errc::already_exists, what + ": the invite was used with another key"};
  Statement use(database, what, "UPDATE invites SET used_by_key = ?, certificate_serial = ? WHERE secret_sha256 = ?",
                key, certificate.serial, secret_sha256);
  TRIB_TRY(use.run());
  TRIB_TRY(insert_certificate(database, certificate));
  Statement enrol(database, what, "INSERT OR REPLACE INTO sites (name, is_operator, enrolled) VALUES (?, ?, ?)",
                  certificate.site, certificate.is_operator, now);
  TRIB_TRY(enrol.run());
  return transaction.commit();
}

Status SqliteStore::add_certificate(const CertificateRecord& certificate) {
  std::lock_guard lock(impl_->mutex);
  return insert_certificate(impl_->database.get(), certificate);
}

Result<std::optional<CertificateRecord>> SqliteStore::find_certificate(std::string_view serial) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading a certificate", "SELECT * FROM certificates WHERE serial = ?", serial);
  TRIB_ASSIGN(const bool found, row.step());
  return found ? std::optional(read_certificate(row)) : std::nullopt;
}

Result<std::vector<CertificateRecord>> SqliteStore::certificates(std::string_view site) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the certificates of " + std::string(site),
                "SELECT * FROM certificates WHERE site = ? ORDER BY rowid", site);
  std::vector<CertificateRecord> certificates;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return certificates;
    certificates.push_back(read_certificate(row));
  }
}

Status SqliteStore::revoke_site(std::string_view site, std::string_view reason, WallTime now) {
  std::lock_guard lock(impl_->mutex);
  Statement revoke(impl_->database.get(), "revoking " + std::string(site),
                   "UPDATE sites SET revoked = ?, revocation_reason = ? WHERE name = ?", now, reason, site);
  TRIB_ASSIGN(const int changed, revoke.run());
  if (changed == 0) return Error{Errc::not_found, "there is no site '" + std::string(site) + "'"};
  return {};
}

Result<std::optional<SiteRecord>> SqliteStore::find_site(std::string_view name) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the site " + std::string(name), "SELECT * FROM sites WHERE name = ?",
                name);
  TRIB_ASSIGN(const bool found, row.step());
  return found ? std::optional(read_site(row)) : std::nullopt;
}

Result<std::vector<SiteRecord>> SqliteStore::sites() {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the sites", "SELECT * FROM sites ORDER BY name");
  std::vector<SiteRecord> sites;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return sites;
    sites.push_back(read_site(row));
  }
}

Status SqliteStore::note_seen(const std::vector<SiteSeen>& sites) {
  std::lock_guard lock(impl_->mutex);
  sqlite3* database = impl_->database.get();
  const std::string what = "recording when sites were seen";
  TRIB_ASSIGN(auto transaction, Transaction::begin(database, what));
  for (const SiteSeen& seen : sites) {
    Statement note(database, what,
                   "UPDATE sites SET last_seen = MAX(?1, IFNULL(last_seen, ?1)), software_version = "
                   "CASE ?2 WHEN '' THEN software_version ELSE ?2 END WHERE name = ?3",
                   seen.time, seen.software_version, seen.site);
    TRIB_TRY(note.run());
  }
  return transaction.commit();
}

Status SqliteStore::put_statement(std::string_view site, const StatementRecord& statement) {
  std::lock_guard lock(impl_->mutex);
  Statement put(impl_->database.get(), "recording the privacy statement of " + std::string(site),
                "INSERT OR REPLACE INTO statements (site, text, received, head_count) VALUES (?, ?, ?, ?)", site,
                statement.text, statement.received, statement.head_count);
  TRIB_TRY(put.run());
  return {};
}

Result<std::optional<StatementRecord>> SqliteStore::statement(std::string_view site) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the privacy statement of " + std::string(site),
                "SELECT text, received, head_count FROM statements WHERE site = ?", site);
  TRIB_ASSIGN(const bool found, row.step());
  return found ? std::optional(StatementRecord{row.text(0), row.time(1), row.integer(2)}) : std::nullopt;
}

Status SqliteStore::advance_ledger_head(std::string_view site, std::string_view data_set,
                                        const LedgerHeadRecord& head) {
  std::lock_guard lock(impl_->mutex);
  Statement advance(impl_->database.get(), "recording the ledger head of " + std::string(site),
                    "INSERT INTO ledger_heads (site, data_set, count, hash, time) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET count = excluded.count, hash = excluded.hash, time = excluded.time "
                    "WHERE excluded.count > count",
                    site, data_set, head.count, head.hash, head.time);
  TRIB_TRY(advance.run());
  return {};
}

Result<std::optional<LedgerHeadRecord>> SqliteStore::ledger_head(std::string_view site, std::string_view data_set) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the ledger head of " + std::string(site),
                "SELECT count, hash, time FROM ledger_heads WHERE site = ? AND data_set = ?", site, data_set);
  TRIB_ASSIGN(const bool found, row.step());
  return found ? std::optional(LedgerHeadRecord{row.integer(0), row.sha256(1), row.time(2)}) : std::nullopt;
}

Status SqliteStore::put_access_token(const AccessTokenRecord& token) {
  std::lock_guard lock(impl_->mutex);
  Statement put(impl_->database.get(), "recording the access token '" + token.name + "'",
                "INSERT INTO access_tokens VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "last_used = excluded.last_used, revoked = excluded.revoked",
                token.token_sha256, token.name, token.is_operator, token.created, token.last_used, token.revoked);
  TRIB_TRY(put.run());
  return {};
}

Result<std::vector<AccessTokenRecord>> SqliteStore::access_tokens() {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the access tokens", "SELECT * FROM access_tokens ORDER BY rowid");
  std::vector<AccessTokenRecord> tokens;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return tokens;
    tokens.push_back(
        {row.sha256(0), row.text(1), row.boolean(2), row.time(3), row.optional_time(4), row.optional_time(5)});
  }
}

// --- Jobs and rounds ---

Status SqliteStore::create_job(const JobRecord& job) {
  std::lock_guard lock(impl_->mutex);
  Statement create(impl_->database.get(), "recording the job " + job.id,
                   "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", job.id, job.name, job.task, job.file_text,
                   job.file_name, to_string(job.state), job.reason, job.submitted, job.ended);
  TRIB_TRY(create.run());
  return {};
}

Status SqliteStore::end_job(std::string_view job, JobState state, std::string_view reason, WallTime now,
                            const std::vector<TrafficRecord>& traffic) {
  std::lock_guard lock(impl_->mutex);
  sqlite3* database = impl_->database.get();
  const std::string what = "ending the job " + std::string(job);
  TRIB_ASSIGN(auto transaction, Transaction::begin(database, what));
  Statement end(database, what, "UPDATE jobs SET state = ?, reason = ?, ended = ? WHERE id = ?", to_string(state),
                reason, now, job);
  TRIB_TRY(end.run());
  TRIB_TRY(add_traffic(database, job, traffic));
  return transaction.commit();
}

Result<std::vector<JobRecord>> SqliteStore::jobs() {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the jobs", "SELECT * FROM jobs ORDER BY rowid");
  std::vector<JobRecord> jobs;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return jobs;
    TRIB_ASSIGN(const JobState state, parse_enum(row.text(5), {JobState::running, JobState::finished, JobState::failed,
                                                               JobState::cancelled}));
    jobs.push_back({row.text(0), row.text(1), row.text(2), row.text(3), row.text(4), state, row.text(6), row.time(7),
                    row.optional_time(8)});
  }
}

Status SqliteStore::put_job_site(std::string_view job, const JobSiteRecord& site) {
  std::lock_guard lock(impl_->mutex);
  return upsert_job_site(impl_->database.get(), job, site);
}

Result<std::vector<JobSiteRecord>> SqliteStore::job_sites(std::string_view job) {
  std::lock_guard lock(impl_->mutex);
  Statement row(
      impl_->database.get(), "reading the sites of job " + std::string(job),
      "SELECT site, accepted, declined_reason, declared_records, turns, epsilon_spent, epsilon_budget, delta, "
      "reported, declined FROM job_sites WHERE job = ? ORDER BY site",
      job);
  std::vector<JobSiteRecord> sites;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return sites;
    sites.push_back({row.text(0), row.boolean(1), row.text(2), row.integer(3), row.integer(4), row.real(5), row.real(6),
                     row.real(7), row.optional_time(8), row.optional_time(9)});
  }
}

Status SqliteStore::open_round(std::string_view job, std::int64_t round, std::int64_t attempt,
                               const std::vector<std::string>& sites, WallTime now) {
  std::lock_guard lock(impl_->mutex);
  sqlite3* database = impl_->database.get();
  const std::string what = "opening round " + std::to_string(round) + " of job " + std::string(job);
  TRIB_ASSIGN(auto transaction, Transaction::begin(database, what));
  Statement open(database, what,
                 "INSERT INTO rounds (job, round, attempt, opened) VALUES (?, ?, ?, ?) "
                 "ON CONFLICT DO UPDATE SET attempt = excluded.attempt",
                 job, round, attempt, now);
  TRIB_TRY(open.run());
  for (const std::string& site : sites) {
    Statement choose(database, what, "INSERT INTO round_sites (job, round, site, status) VALUES (?, ?, ?, 'chosen')",
                     job, round, site);
    TRIB_TRY(choose.run());
    Statement count(database, what, "UPDATE job_sites SET turns = turns + 1 WHERE job = ? AND site = ?", job, site);
    TRIB_TRY(count.run());
  }
  return transaction.commit();
}

Status SqliteStore::set_round_site(std::string_view job, std::int64_t round, const RoundSiteRecord& site) {
  std::lock_guard lock(impl_->mutex);
  Statement set(
      impl_->database.get(),
      "recording what " + site.site + " did in round " + std::to_string(round) + " of job " + std::string(job),
      "UPDATE round_sites SET status = ?, took_part = ?, reason = ?, epsilon_spent = ?, epsilon_budget = ?, "
      "reported = ?, declined = ? WHERE job = ? AND round = ? AND site = ?",
      to_string(site.status), site.took_part, site.reason, site.epsilon_spent, site.epsilon_budget, site.reported,
      site.declined, job, round, site.site);
  TRIB_TRY(set.run());
  return {};
}

Result<std::vector<RoundSiteRecord>> SqliteStore::round_sites(std::string_view job, std::int64_t round) {
  std::lock_guard lock(impl_->mutex);
  const std::string query = std::string("SELECT ") + round_site_columns +
                            " FROM round_sites WHERE job = ? AND round = ? ORDER BY round_sites.site";
  Statement row(impl_->database.get(), "reading round " + std::to_string(round) + " of job " + std::string(job),
                query.c_str(), job, round);
  std::vector<RoundSiteRecord> sites;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return sites;
    TRIB_ASSIGN(RoundSiteRecord site, read_round_site(row, 0));
    sites.push_back(std::move(site));
  }
}

Result<std::vector<SiteRoundRecord>> SqliteStore::site_rounds(std::string_view site) {
  std::lock_guard lock(impl_->mutex);
  const std::string query = std::string("SELECT round_sites.job, round_sites.round, opened, ") + round_site_columns +
                            " FROM round_sites INDEXED BY rounds_of_a_site JOIN rounds USING (job, round) JOIN jobs ON "
                            "jobs.id = round_sites.job WHERE round_sites.site = ? ORDER BY jobs.rowid, round";
  Statement row(impl_->database.get(), "reading the rounds of " + std::string(site), query.c_str(), site);
  return read_site_rounds(row);
}

Result<std::vector<SiteRoundRecord>> SqliteStore::declined_rounds(std::string_view job) {
  std::lock_guard lock(impl_->mutex);
  const std::string query = std::string("SELECT round_sites.job, round_sites.round, opened, ") + round_site_columns +
                            " FROM round_sites JOIN rounds USING (job, round) WHERE round_sites.job = ? AND "
                            "status = 'declined' ORDER BY round, round_sites.site";
  Statement row(impl_->database.get(), "reading who declined rounds of job " + std::string(job), query.c_str(), job);
  return read_site_rounds(row);
}

Result<std::map<std::string, std::int64_t>> SqliteStore::participations(std::string_view job) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading who took part in job " + std::string(job),
                "SELECT site, COUNT(*) FROM round_sites WHERE job = ? AND took_part GROUP BY site", job);
  std::map<std::string, std::int64_t> counts;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return counts;
    counts[row.text(0)] = row.integer(1);
  }
}

Result<std::map<std::string, std::int64_t>> SqliteStore::last_counted_rounds(std::string_view job) {
  std::lock_guard lock(impl_->mutex);
  // "contributed" is written by the commit of the round and by nothing else.
  Statement row(impl_->database.get(), "reading whose contributions to job " + std::string(job) + " were counted",
                "SELECT site, MAX(round) FROM round_sites WHERE job = ? AND status = 'contributed' GROUP BY site", job);
  std::map<std::string, std::int64_t> rounds;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return rounds;
    rounds[row.text(0)] = row.integer(1);
  }
}

Status SqliteStore::commit_round(const RoundCommit& commit) {
  std::lock_guard lock(impl_->mutex);
  sqlite3* database = impl_->database.get();
  const std::string what = "committing round " + std::to_string(commit.round) + " of job " + commit.job;
  TRIB_ASSIGN(auto transaction, Transaction::begin(database, what));
  // Round 0, the initial state, was never opened.
  Statement close(database, what,
                  "INSERT INTO rounds VALUES (?1, ?2, 1, ?3, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET "
                  "committed = ?3, state_sha256 = ?4, contributions = ?5, weight = ?6 WHERE committed IS NULL",
                  commit.job, commit.round, commit.time, commit.state_sha256,
                  static_cast<std::int64_t>(commit.contributors.size()), commit.weight);
  TRIB_ASSIGN(const int changed, close.run());
  if (changed == 0) return Error{Errc::already_exists, what + ": the round is closed"};
  for (const std::string& site : commit.contributors) {
    Statement mark(database, what,
                   "UPDATE round_sites SET status = 'contributed', took_part = 1, reason = '' "
                   "WHERE job = ? AND round = ? AND site = ?",
                   commit.job, commit.round, site);
    TRIB_TRY(mark.run());
  }
  for (const RoundSiteRecord& part : commit.parts) {
    Statement report(database, what,
                     "UPDATE round_sites SET epsilon_spent = ?, epsilon_budget = ?, reported = ? "
                     "WHERE job = ? AND round = ? AND site = ?",
                     part.epsilon_spent, part.epsilon_budget, part.reported, commit.job, commit.round, part.site);
    TRIB_TRY(report.run());
  }
  TRIB_TRY(add_traffic(database, commit.job, commit.traffic));
  for (const JobSiteRecord& site : commit.sites) TRIB_TRY(upsert_job_site(database, commit.job, site));
  TRIB_FAILPOINT("store.before_commit");
  return transaction.commit();
}

Result<std::vector<RoundRecord>> SqliteStore::rounds(std::string_view job) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the rounds of job " + std::string(job),
                "SELECT round, attempt, opened, committed, state_sha256, contributions, weight FROM rounds "
                "WHERE job = ? ORDER BY round",
                job);
  std::vector<RoundRecord> rounds;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return rounds;
    rounds.push_back(
        {row.integer(0), row.integer(1), row.time(2), row.optional_time(3), row.text(4), row.integer(5), row.real(6)});
  }
}

Status SqliteStore::put_evaluation(std::string_view job, const EvaluationRecord& evaluation) {
  std::lock_guard lock(impl_->mutex);
  sqlite3* database = impl_->database.get();
  const std::string what =
      "recording the evaluation of round " + std::to_string(evaluation.round) + " of job " + std::string(job);
  TRIB_ASSIGN(auto transaction, Transaction::begin(database, what));
  // A row without a value says that the round was evaluated, also where there was nothing to measure.
  Statement mark(database, what, "INSERT OR REPLACE INTO evaluations VALUES (?, ?, '', NULL)", job, evaluation.round);
  TRIB_TRY(mark.run());
  for (const auto& [metric, value] : evaluation.metrics) {
    Statement put(database, what, "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?)", job, evaluation.round,
                  metric, value);
    TRIB_TRY(put.run());
  }
  return transaction.commit();
}

Result<std::vector<EvaluationRecord>> SqliteStore::evaluations(std::string_view job) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the evaluations of job " + std::string(job),
                "SELECT round, metric, value FROM evaluations WHERE job = ? ORDER BY round", job);
  std::vector<EvaluationRecord> evaluations;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return evaluations;
    if (evaluations.empty() || evaluations.back().round != row.integer(0)) evaluations.push_back({row.integer(0), {}});
    if (!row.is_null(2)) evaluations.back().metrics[row.text(1)] = row.real(2);
  }
}

Result<std::vector<TrafficRecord>> SqliteStore::traffic(std::string_view job) {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading the traffic of job " + std::string(job),
                "SELECT site, round, bytes_down, bytes_up FROM traffic WHERE job = ? ORDER BY round, site", job);
  std::vector<TrafficRecord> traffic;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return traffic;
    traffic.push_back({row.text(0), row.integer(1), static_cast<std::uint64_t>(row.integer(2)),
                       static_cast<std::uint64_t>(row.integer(3))});
  }
}

Result<std::set<std::string>> SqliteStore::referenced_states() {
  std::lock_guard lock(impl_->mutex);
  Statement row(impl_->database.get(), "reading which states must stay",
                "SELECT state_sha256 FROM rounds AS kept WHERE committed IS NOT NULL AND round >= "
                "(SELECT MAX(round) FROM rounds WHERE job = kept.job AND committed IS NOT NULL) - 1");
  std::set<std::string> states;
  for (;;) {
    TRIB_ASSIGN(const bool found, row.step());
    if (!found) return states;
    states.insert(row.text(0));
  }
}

}  // namespace trib::server
