#include "cli/status_view.h"

#include <gmock/gmock.h>

namespace trib::cli {
namespace {

namespace json = boost::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

json::object document() {
  return json::parse(R"({
    "federation": {"federation": "hospitals", "software_version": "1.2", "uptime_seconds": 71.0, "sessions": 1,
                   "uploads": 0, "staging_memory_bytes": 1000, "staging_disk_bytes": 500, "draining": false,
                   "ca_until": "2036-11-24T15:04:05.123Z"},
    "sites": {"sites": [
      {"name": "st-mary", "connected": true, "is_operator": false, "revoked": null, "revocation_reason": "",
       "last_seen": "2026-11-24T15:04:05.123Z", "certificate_until": "2026-12-01T00:00:00.000Z",
       "software_version": "1.2", "waiting_for": [{"job": "domains-1", "round": 3, "reason": "has not answered the round",
       "since": "2026-11-24T15:01:00.000Z"}]},
      {"name": "north", "connected": false, "is_operator": false, "revoked": "2026-11-20T00:00:00.000Z",
       "revocation_reason": "contract ended", "waiting_for": []},
      {"name": "alice", "connected": false, "is_operator": true, "revoked": null}]},
    "privacy": {"federation": "hospitals", "sites": [{"site": "st-mary", "data_sets": [
      {"data_set": "letters", "private": true, "epsilon_spent": 2.5, "epsilon_budget": 8.0, "epsilon_reserved": 1.25,
       "declined_total": 1, "reported": "2026-11-24T15:04:05.123Z"},
      {"data_set": "open", "private": false, "epsilon_spent": null, "epsilon_budget": null, "epsilon_reserved": null,
       "declined_total": 0, "reported": null}]}]},
    "jobs": []})")
      .as_object();
}

TEST(StatusView, ShowsSitesBudgetsAndWhoIsWaitedForOnOneScreen) {
  const std::string text = render_status(document(), 100);
  EXPECT_THAT(text, AllOf(HasSubstr("hospitals"), HasSubstr("1 min 11 s"), HasSubstr("1 sessions")));
  EXPECT_THAT(text, HasSubstr("domains-1 round 3 since 2026-11-24 15:01: has not answered the round"));
  EXPECT_THAT(text, AllOf(HasSubstr("2.500"), HasSubstr("1.250"), HasSubstr("not private")));
  EXPECT_THAT(text, AllOf(HasSubstr("revoked"), HasSubstr("contract ended")));
  EXPECT_THAT(text, Not(HasSubstr("alice"))) << "operators are no sites";
  EXPECT_THAT(text, HasSubstr("none: `trib job submit JOB`"));
}

TEST(StatusView, ShowsAnEmptyFederationWithWhatToDo) {
  json::object empty = document();
  empty["sites"].as_object()["sites"].as_array().clear();
  empty["privacy"].as_object()["sites"].as_array().clear();
  EXPECT_THAT(render_status(empty, 100), AllOf(HasSubstr("trib invite SITE"), HasSubstr("nothing has been reported")));
}

TEST(StatusView, ShowsARunningJobAsItsWatchDoes) {
  json::object running = document();
  running["jobs"] = json::parse(R"([{"id": "domains-1", "name": "domains", "state": "collecting", "reason": "",
    "waiting": {"reason": "1 of 2 contributions are in", "since": "2026-11-24T15:01:00.000Z", "sites": [], "until": null},
    "rounds_done": 2, "rounds_total": 20, "seconds": 71.0, "epsilon": 8.0, "result": {"evaluated": 0},
    "evaluations": [], "clients": []}])");
  EXPECT_THAT(render_status(running, 100),
              AllOf(HasSubstr("round 2/20"), HasSubstr("waiting: 1 of 2 contributions are in, since 15:01:00 UTC")));
}

}  // namespace
}  // namespace trib::cli
