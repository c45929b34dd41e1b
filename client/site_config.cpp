#include "client/site_config.h"

#include <spdlog/fmt/fmt.h>

#include <limits>
#include <system_error>

#include "common/config.h"

namespace trib::client {
namespace {

constexpr std::string_view log_levels[] = {"trace", "debug", "info", "warn", "error"};
constexpr std::string_view log_formats[] = {"text", "json"};
constexpr std::int64_t day_ms = 24LL * 3600 * 1000;

bool is_data_set_name(std::string_view name) {
  return is_valid_job_id(name) && name.find('.') == std::string_view::npos;
}

// A basic string of TOML.
std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string toml_list(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) out += (out.empty() ? "" : ", ") + toml_string(text);
  return "[" + out + "]";
}

DataSetPolicy read_data_set(ConfigReader& config, const std::string& name, const std::filesystem::path& directory) {
  const std::string prefix = "dataset." + name;
  DataSetPolicy policy;
  if (!is_data_set_name(name)) {
    config.fail(prefix, "the name of a data set has letters, digits, '-' and '_' only");
  }
  policy.file = directory / config.text(prefix + ".file");
  std::error_code error;
  if (config.has(prefix + ".file") && !std::filesystem::is_regular_file(policy.file, error)) {
    config.fail(prefix + ".file", fmt::format("there is no file '{}'", policy.file.native()));
  }
  if (config.has(prefix + ".records")) {
    policy.declared_records = config.integer(prefix + ".records", {.minimum = 1, .maximum = 1'000'000'000'000});
  } else {
    config.fail(prefix, fmt::format("{}.records is missing: {}", prefix, records_hint));
  }
  policy.allow_non_private = config.boolean(prefix + ".allow_non_private", false);
  policy.share_evaluation = config.boolean(prefix + ".share_evaluation", false);
  if (config.has(prefix + ".budget")) {
    privacy::Budget budget;
    budget.data_set = name;
    budget.epsilon = config.number(prefix + ".budget.epsilon", {.minimum = 0.0, .exclude_minimum = true});
    budget.delta =
        config.number(prefix + ".budget.delta",
                      {.minimum = 0.0, .maximum = 1.0, .exclude_minimum = true, .exclude_maximum = true}, 1e-5);
    if (policy.declared_records > 0 && budget.delta >= 1.0 / static_cast<double>(policy.declared_records)) {
      config.fail(prefix + ".budget.delta",
                  fmt::format("must be below 1/records = {:g}: with a larger delta whole records "
                              "may be published",
                              1.0 / static_cast<double>(policy.declared_records)));
    }
    policy.budget = budget;
  }
  return policy;
}

bool is_loopback(const net::HostPort& address) {
  return address.host == "localhost" || address.host == "::1" ||
         (address.is_ip_address() && address.host.starts_with("127."));
}

void read_metrics(ConfigReader& reader, SiteConfig& config) {
  const bool allow_plain_text = reader.boolean("metrics.allow_plain_text", false);
  if (!reader.has("metrics.listen")) return;
  const auto address = net::parse_host_port(reader.text("metrics.listen"));
  if (!address) return reader.fail("metrics.listen", address.error().message);
  if (!is_loopback(*address) && !allow_plain_text) {
    return reader.fail("metrics.listen",
                       fmt::format("{} is not a loopback address, and what is served there is not encrypted: use "
                                   "127.0.0.1, or say metrics.allow_plain_text = true where the network is trusted",
                                   address->to_string()));
  }
  config.metrics_listen = *address;
}

}  // namespace

const char* const records_hint =
    "say how many records the data set has, as a number that may be public. A round number near the true one is best, "
    "since sampling rate, noise and the weight of this site are computed from it; it is never counted for you, because "
    "the exact number depends on single records";

std::vector<privacy::Budget> SiteConfig::budgets() const {
  std::vector<privacy::Budget> result;
  for (const auto& [name, policy] : data_sets) {
    if (policy.budget) result.push_back(*policy.budget);
  }
  return result;
}

Result<SiteConfig> read_site_config(const std::filesystem::path& path) {
  TRIB_ASSIGN(ConfigReader reader, ConfigReader::from_file(path));
  const std::filesystem::path directory = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  SiteConfig config;
  config.site = reader.text("site");
  config.servers = reader.texts("servers");
  if (reader.has("servers") && config.servers.empty()) {
    reader.fail("servers", "must name at least one aggregator as \"host:port\"");
  }
  config.device = reader.text("device", config.device);
  config.retry_on_cpu = reader.boolean("compute.retry_on_cpu", config.retry_on_cpu);
  for (const std::string& models : reader.texts("models", std::vector<std::string>{})) {
    config.models.push_back(directory / models);
  }

  config.share_statement = reader.boolean("share_statement", config.share_statement);
  read_metrics(reader, config);

  const auto duration = [&](const char* key, Milliseconds& value, std::int64_t maximum) {
    value = Milliseconds(reader.duration_ms(key, {.minimum = 1, .maximum = maximum}, value.count()));
  };
  duration("connection.connect_timeout", config.connect_timeout, day_ms);
  duration("connection.idle_timeout", config.idle_timeout, day_ms);
  duration("connection.write_timeout", config.write_timeout, day_ms);
  duration("connection.reconnect_minimum", config.reconnect_minimum, day_ms);
  duration("connection.reconnect_maximum", config.reconnect_maximum, day_ms);
  if (config.reconnect_maximum < config.reconnect_minimum) {
    reader.fail("connection.reconnect_maximum", "must not be below connection.reconnect_minimum");
  }
  const auto bytes = [&](const char* key, std::uint64_t& value) {
    value = static_cast<std::uint64_t>(reader.integer(
        key, {.minimum = 1, .maximum = std::numeric_limits<std::int64_t>::max()}, static_cast<std::int64_t>(value)));
  };
  bytes("limits.outbox_bytes", config.outbox_bytes);
  duration("limits.outbox_keep", config.outbox_keep, 3650 * day_ms);
  bytes("limits.transfer_bytes", config.transfer_bytes);
  config.log_level = reader.choice("log.level", log_levels, config.log_level);
  config.log_format = reader.choice("log.format", log_formats, "text") == "json" ? LogFormat::json : LogFormat::text;

  for (const std::string& name : reader.tables("dataset")) {
    config.data_sets[name] = read_data_set(reader, name, directory);
  }
  if (config.data_sets.empty()) {
    reader.fail("dataset", "the site has no data set: add a section [dataset.default] with its file and its records");
  }
  TRIB_TRY(reader.finish());
  return config;
}

std::string render_site_config(const SiteConfig& config) {
  std::vector<std::string> models;
  for (const auto& directory : config.models) models.push_back(directory.native());
  std::string text = fmt::format(
      "# One site of a Tributary federation. Only what stands here decides what a job may do at this site.\n"
      "site = {}\n"
      "servers = {}  # tried in turn\n"
      "device = {}  # \"auto\", \"cpu\", \"cuda\", \"cuda:1\", \"cuda:0,1\", \"cuda:all\"\n"
      "models = {}  # directories with base models; a job names its model by SHA-256\n"
      "# Whether the aggregator gets this site's privacy statement, signed with its key: what was spent, from public\n"
      "# parameters alone, and nothing of the records.\n"
      "share_statement = {}\n"
      "\n[compute]\n"
      "retry_on_cpu = {}  # whether a round whose GPU fails is trained again on the CPU, under a second charge\n",
      toml_string(config.site), toml_list(config.servers), toml_string(config.device), toml_list(models),
      config.share_statement, config.retry_on_cpu);
  if (config.metrics_listen) {
    text += fmt::format("\n[metrics]\nlisten = {}\n{}", toml_string(config.metrics_listen->to_string()),
                        is_loopback(*config.metrics_listen) ? "" : "allow_plain_text = true\n");
  } else {
    text +=
        "\n# Prometheus metrics and health of this client; without TLS, so on this machine alone.\n"
        "# [metrics]\n"
        "# listen = \"127.0.0.1:9464\"\n";
  }
  for (const auto& [name, policy] : config.data_sets) {
    text += fmt::format(
        "\n[dataset.{}]\n"
        "file = {}\n"
        "records = {}  # the declared size: public, and not counted from the file\n"
        "allow_non_private = {}  # whether a job without differential privacy may train on this data\n"
        "share_evaluation = {}  # whether a job may count, with noise and charged, what its model gets right on this "
        "data\n",
        name, toml_string(policy.file.native()), policy.declared_records, policy.allow_non_private,
        policy.share_evaluation);
    if (policy.budget) {
      text += fmt::format(
          "\n# The cap over all jobs together. A round that would pass it is declined.\n"
          "[dataset.{}.budget]\n"
          "epsilon = {}\n"
          "delta = {}  # below 1/records\n",
          name, policy.budget->epsilon, policy.budget->delta);
    }
  }
  return text;
}

}  // namespace trib::client
