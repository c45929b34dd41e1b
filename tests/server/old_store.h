// A store as earlier versions of the program made it, with a federation that has come some way: what is upgraded in
// place is tested against these, not against what today's program would make of them.
#pragma once

#include <sqlite3.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace trib::server::testing {

inline constexpr const char* schema_of_version_2 = R"sql(
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

// Two sites, one job on them with its first round committed and its second declined by one; times are milliseconds.
inline constexpr const char* content_of_version_2 = R"sql(
INSERT INTO federation VALUES ('federation.name', 'hospitals');
INSERT INTO sites VALUES ('north', 0, 1000, NULL, ''), ('south', 0, 1000, 5000, 'left');
INSERT INTO certificates VALUES ('01', 'north', 0, 9000, 'PEM');
INSERT INTO jobs VALUES ('j', 'name', 'counting', '[job]', 'job.toml', 'running', '', 2000, NULL);
INSERT INTO job_sites VALUES ('j', 'north', 1, '', 5000, 2, 1.5, 8.0), ('j', 'south', 1, 'revoked', 4000, 1, 0.5, 2.0);
INSERT INTO rounds VALUES ('j', 0, 1, 2000, 2000, 'a', 0, 0.0), ('j', 1, 1, 2100, 2500, 'b', 2, 9000.0),
                          ('j', 2, 1, 2600, NULL, '', 0, 0.0);
INSERT INTO round_sites VALUES ('j', 1, 'north', 'contributed', 1, ''), ('j', 1, 'south', 'contributed', 1, ''),
                               ('j', 2, 'north', 'declined', 0, 'over its cap');
INSERT INTO traffic VALUES ('j', 1, 'north', 100, 50);
PRAGMA user_version = 2;
)sql";

inline void run_sql(const std::filesystem::path& path, const std::string& statements) {
  sqlite3* database = nullptr;
  char* message = nullptr;
  const bool done = sqlite3_open(path.c_str(), &database) == SQLITE_OK &&
                    sqlite3_exec(database, statements.c_str(), nullptr, nullptr, &message) == SQLITE_OK;
  const std::string problem = message == nullptr ? "cannot open it" : message;
  sqlite3_free(message);
  sqlite3_close(database);
  if (!done) throw std::runtime_error(path.string() + ": " + problem);
}

}  // namespace trib::server::testing
