// openapi.json says what the program does, and all of it: routes both ways, and real answers against its schemas.
#include "server/privacy_report.h"
#include "server/sqlite_store.h"
#include "tests/http/http_support.h"

namespace trib::server::http {
namespace {

namespace json = boost::json;
using testing::HttpTest;
using testing::Reply;

const json::object& specification() {
  static const json::value value = boost::json::parse(openapi_json());
  return value.as_object();
}

// Holds a value against a schema of the kind that openapi.json uses: type, properties, required, additionalProperties,
// items, enum, minimum, maximum and $ref. Appends what does not hold.
void check(const json::value& value, const json::object& schema, const std::string& where,
           std::vector<std::string>& problems) {
  static const std::set<std::string> known = {"type",   "properties", "required", "additionalProperties",
                                              "items",  "enum",       "$ref",     "description",
                                              "format", "minimum",    "maximum"};
  for (const auto& entry : schema)
    if (!known.contains(std::string(entry.key())))
      problems.push_back(where + ": the test does not know " + std::string(entry.key()));
  if (const json::value* reference = schema.if_contains("$ref")) {
    const std::string name(reference->as_string().subview(std::string("#/components/schemas/").size()));
    return check(value, specification().at("components").at("schemas").at(name).as_object(), where + "(" + name + ")",
                 problems);
  }
  const auto is = [&](std::string_view type) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "boolean") return value.is_bool();
    if (type == "null") return value.is_null();
    if (type == "number") return value.is_number();
    if (type == "integer") return value.is_int64() || value.is_uint64();
    return false;
  };
  if (const json::value* type = schema.if_contains("type")) {
    bool matches = false;
    if (type->is_string()) {
      matches = is(type->as_string());
    } else {
      for (const auto& one : type->as_array()) matches = matches || is(one.as_string());
    }
    if (!matches) {
      problems.push_back(where + " is " + boost::json::serialize(value) + ", not " + boost::json::serialize(*type));
      return;
    }
  }
  if (const json::value* allowed = schema.if_contains("enum"))
    if (std::ranges::find(allowed->as_array(), value) == allowed->as_array().end())
      problems.push_back(where + " is " + boost::json::serialize(value));
  if (value.is_object()) {
    const json::object empty;
    const json::value* properties = schema.if_contains("properties");
    const json::object& of = properties ? properties->as_object() : empty;
    if (const json::value* required = schema.if_contains("required"))
      for (const auto& key : required->as_array())
        if (!value.as_object().contains(key.as_string()))
          problems.push_back(where + " lacks " + std::string(key.as_string()));
    const json::value* additional = schema.if_contains("additionalProperties");
    for (const auto& entry : value.as_object()) {
      const std::string at = where + "." + std::string(entry.key());
      if (const json::value* property = of.if_contains(entry.key())) {
        check(entry.value(), property->as_object(), at, problems);
      } else if (additional && additional->is_object()) {
        check(entry.value(), additional->as_object(), at, problems);
      } else if (additional && !additional->as_bool()) {
        problems.push_back(at + " is not described");
      }
    }
  }
  if (value.is_array() && schema.contains("items"))
    for (std::size_t i = 0; i < value.as_array().size(); ++i)
      check(value.at(i), schema.at("items").as_object(), where + "[" + std::to_string(i) + "]", problems);
}

class OpenApi : public HttpTest {
 protected:
  void expect_as_described(const std::string& method, const std::string& path, const Reply& reply) {
    const json::object& operation = specification().at("paths").at(path).at(method).as_object();
    const std::string status = std::to_string(reply.status);
    ASSERT_TRUE(operation.at("responses").as_object().contains(status)) << method << " " << path << " " << status;
    const json::object& response = operation.at("responses").at(status).as_object();
    if (!response.contains("content")) {
      EXPECT_EQ(reply.body, "");
      return;
    }
    const std::string type = reply.header("content-type");
    const std::string media = type.substr(0, type.find(';'));
    ASSERT_TRUE(response.at("content").as_object().contains(media)) << path << " " << media;
    if (media != "application/json") return;
    std::vector<std::string> problems;
    check(reply.document(), response.at("content").at(media).at("schema").as_object(), method + " " + path, problems);
    for (const std::string& problem : problems) ADD_FAILURE() << problem;
  }
};

TEST_F(OpenApi, DescribesEveryRouteAndNoOther) {
  std::set<std::string> there, described;
  for (const Route& route : Api::routes()) {
    std::string method(route.method);
    std::ranges::transform(method, method.begin(), [](char c) { return static_cast<char>(std::tolower(c)); });
    const std::string name = method + " " + std::string(route.pattern);
    there.insert(name);
    const json::value* path = specification().at("paths").as_object().if_contains(route.pattern);
    if (path == nullptr || !path->as_object().contains(method)) continue;
    const json::object& operation = path->at(method).as_object();
    const char* audience = route.audience == Audience::anyone    ? "anyone"
                           : route.audience == Audience::viewers ? "viewers"
                                                                 : "operators";
    EXPECT_EQ(operation.at("x-audience").as_string(), audience) << name;
    EXPECT_EQ(operation.contains("security"), route.audience == Audience::anyone) << name;
    EXPECT_EQ(operation.at("responses").as_object().contains("401"),
              route.audience != Audience::anyone || name == "post /api/v1/session")
        << name;
  }
  for (const auto& path : specification().at("paths").as_object())
    for (const auto& operation : path.value().as_object())
      described.insert(std::string(operation.key()) + " " + std::string(path.key()));
  EXPECT_EQ(described, there);
}

TEST_F(OpenApi, NamesThePartsOfEveryPath) {
  for (const auto& path : specification().at("paths").as_object()) {
    const std::string pattern(path.key());
    for (const auto& operation : path.value().as_object()) {
      std::set<std::string> named;
      if (const json::value* parameters = operation.value().as_object().if_contains("parameters"))
        for (const auto& parameter : parameters->as_array())
          if (parameter.at("in").as_string() == "path") named.insert(std::string(parameter.at("name").as_string()));
      EXPECT_EQ(named.size(), static_cast<std::size_t>(std::ranges::count(pattern, '{'))) << pattern;
      for (const std::string& name : named) EXPECT_NE(pattern.find("{" + name + "}"), std::string::npos);
    }
  }
}

// What a site has spent, as the reports make it of a store.
TEST_F(OpenApi, ReportsOfPrivacyAreAsDescribed) {
  const auto issuer = net::CertificateIssuer::create("test", system_clock());
  const auto credentials = net::make_credentials(issuer, "clinic-7", "site");
  const auto store = SqliteStore::open(":memory:").value();
  store->put_invite({Sha256{}, "clinic-7", false, WallTime(Milliseconds(9)), std::nullopt, ""}).value();
  store
      ->redeem_invite(Sha256{}, credentials.key.public_key_sha256(),
                      {"01", "clinic-7", false, WallTime(Milliseconds(9)), credentials.certificate.to_pem()},
                      WallTime())
      .value();
  JobRecord job;
  job.id = "j-1";
  job.task = "lora_text";
  job.file_text =
      "[job]\nname = \"j\"\ntask = \"lora_text\"\nrounds = 5\n[data]\nset = \"letters\"\n[model]\nbase = \"b\"\nlabels "
      "= "
      "[\"a\", \"b\"]\n[training]\nbatch_size = 16\n";
  job.file_name = "job.toml";
  store->create_job(job).value();
  JobSiteRecord site;
  site.site = "clinic-7";
  site.accepted = true;
  site.declared_records = 5000;
  site.epsilon_spent = 2.0;
  site.epsilon_budget = 8.0;
  site.delta = 1e-5;
  site.reported = WallTime(Milliseconds(50));
  store->put_job_site(job.id, site).value();
  RoundSiteRecord part{"clinic-7", RoundSiteStatus::contributed, true, ""};
  part.epsilon_spent = 2.0;
  part.epsilon_budget = 8.0;
  part.reported = WallTime(Milliseconds(50));
  RoundSiteRecord declined{"clinic-7", RoundSiteStatus::declined, false, "over budget"};
  declined.declined = WallTime(Milliseconds(60));
  for (const auto& [round, record] : {std::pair{1, part}, std::pair{2, declined}}) {
    store->open_round(job.id, round, 1, {"clinic-7"}, WallTime(Milliseconds(40 * round))).value();
    store->set_round_site(job.id, round, record).value();
  }
  PrivacyPlans plans;
  adjust_sources = [&](Sources& sources) {
    sources.reports.privacy = [&] { return privacy_report_json(*store, "test", WallTime(Milliseconds(100)), plans); };
    sources.reports.privacy_history = [&](const std::string& name, const std::string& data_set) {
      return privacy_history_json(*store, name, data_set, WallTime(Milliseconds(100)), plans);
    };
  };
  start();
  const Reply report = view("/api/v1/privacy");
  const json::value data_set = report.document().at("sites").at(0).at("data_sets").at(0);
  EXPECT_EQ(data_set.at("epsilon_spent").as_double(), 2.0);
  EXPECT_EQ(data_set.at("declined").as_array().size(), 1u);
  expect_as_described("get", "/api/v1/privacy", report);
  const Reply history = view("/api/v1/privacy/clinic-7/letters");
  EXPECT_EQ(history.document().at("points").as_array().size(), 2u) << history.body;
  expect_as_described("get", "/api/v1/privacy/{site}/{data_set}", history);
  stop();
}

TEST_F(OpenApi, RealAnswersAreAsDescribed) {
  start(2, 1);
  const auto channel = connect_site(enrol("site-0"));
  enrol("bob", true);
  const std::string id = submit();
  accept_job(*channel);
  HttpTest::await(*channel, server::testing::ServerMessage::kRoundStart);
  const auto contribution = server::testing::unit_contribution(0, 1);
  auto announcement = server::testing::ClientMessage();
  {
    auto& contributed = *announcement.mutable_contribution_start();
    contributed.set_job_id(id);
    contributed.set_round(1);
    contributed.set_weight(1.0);
    contributed.set_is_private(true);
    *contributed.mutable_transfer() = net::announce(1, contribution, contribution.schema());
  }
  send(*channel, announcement);
  net::run(context, channel->send_chunk(1, 0, contribution.at("counts").bytes())).value();
  HttpTest::await(*channel, server::testing::ServerMessage::kRoundClosed);
  const std::string a = "/api/v1";
  for (const char* path : {"/federation", "/sites", "/jobs", "/privacy", "/session", "/openapi.json"})
    expect_as_described("get", a + path, view(a + path));
  for (const char* path : {"/healthz", "/readyz"}) expect_as_described("get", path, get(path));
  expect_as_described("get", "/metrics", view("/metrics"));
  const Reply job = view(a + "/jobs/" + id);
  EXPECT_GE(job.document().at("rounds").as_array().size(), 1u);
  EXPECT_EQ(job.document().at("clients").as_array().size(), 1u);
  expect_as_described("get", a + "/jobs/{id}", job);
  expect_as_described("get", a + "/jobs/{id}", view(a + "/jobs/none"));
  expect_as_described("get", a + "/jobs/{id}/file", view(a + "/jobs/" + id + "/file"));
  expect_as_described("get", a + "/sites/{site}/statement", view(a + "/sites/site-0/statement"));
  expect_as_described("get", a + "/sites/{site}/statement.html", view(a + "/sites/site-0/statement.html"));
  expect_as_described("get", a + "/privacy/{site}/{data_set}", view(a + "/privacy/none/none"));
  expect_as_described("get", a + "/federation", get(a + "/federation"));
  const std::string op = bearer(operating());
  const auto posted = [&](const std::string& pattern, const std::string& path, const std::string& body,
                          const std::string& headers) {
    expect_as_described("post", a + pattern, post(a + path, body, headers));
  };
  posted("/invites", "/invites", R"({"site":"new"})", op);
  posted("/invites", "/invites", "{}", op);
  posted("/invites", "/invites", R"({"site":"new"})", bearer(viewer()));
  posted("/jobs", "/jobs", R"({"file":"x"})", op);
  posted("/jobs/{id}/cancel", "/jobs/" + id + "/cancel", R"({"reason":"x"})", op);
  posted("/jobs/{id}/cancel", "/jobs/" + id + "/cancel", R"({"reason":"x"})", op);
  posted("/sites/{name}/revoke", "/sites/site-0/revoke", R"({"reason":"x"})", op);
  posted("/sites/{name}/revoke", "/sites/none/revoke", R"({"reason":"x"})", op);
  posted("/session", "/session", "{\"token\":\"" + viewer() + "\"}", "");
  posted("/session", "/session", R"({"token":"wrong"})", "");
  const auto browser = sign_in(viewer());
  expect_as_described("delete", a + "/session", exchange(make("DELETE", a + "/session", browser.changing())));
  expect_as_described("get", a + "/sites", view(a + "/sites"));
}

TEST_F(OpenApi, TheCheckFindsWhatDoesNotHold) {
  const auto problems = [](const char* value, const char* schema) {
    std::vector<std::string> found;
    check(boost::json::parse(value), boost::json::parse(schema).as_object(), "v", found);
    return found.size();
  };
  constexpr const char* schema =
      R"({"type":"object","properties":{"a":{"type":["integer","null"]},"b":{"type":"array","items":{"type":"string"}}},
          "required":["a"],"additionalProperties":false})";
  EXPECT_EQ(problems(R"({"a":1,"b":["x"]})", schema), 0u);
  EXPECT_EQ(problems(R"({"a":null})", schema), 0u);
  EXPECT_EQ(problems(R"({"a":1.5})", schema), 1u);
  EXPECT_EQ(problems(R"({"b":[]})", schema), 1u);
  EXPECT_EQ(problems(R"({"a":1,"b":[1,"x",2]})", schema), 2u);
  EXPECT_EQ(problems(R"({"a":1,"c":1})", schema), 1u);
  EXPECT_EQ(problems(R"("x")", R"({"enum":["y"]})"), 1u);
  EXPECT_EQ(problems(R"({})", R"({"$ref":"#/components/schemas/Submitted"})"), 1u);
}

}  // namespace
}  // namespace trib::server::http
