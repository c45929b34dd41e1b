#include "privacy/statement.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <limits>

#include "privacy/accountant.h"
#include "privacy/privacy_loss.h"
#include "privacy/sealed.h"

namespace trib::privacy {
namespace {

namespace json = boost::json;

constexpr std::string_view kFormat = "tributary-privacy-statement";
constexpr std::int64_t kVersion = 1;
constexpr double kTolerance = 1e-6;  // relative; figures travel as decimals

constexpr const char* kAssumptions[] = {
    "The unit is one record. Whoever has k records in a data set is protected k times less: epsilon is k times as "
    "large, and delta grows with it.",
    "The site's software did what it records: each step took each record independently with the stated probability, "
    "from "
    "a cryptographic random source, clipped what it computed to the clip norm, and added noise with the stated "
    "multiple "
    "of it as its standard deviation: a discrete Gaussian on a grid of integers, unless the mechanism says "
    "float_gaussian. The charge was on disk before the first record was read.",
    "The number of declared records is public. The true number was not used.",
    "Epsilon by the filter holds against an aggregator that chose every round by the answers before. The tight epsilon "
    "holds for rounds that were planned in advance.",
    "A data set that is marked \"not private\" was read by a job without differential privacy: nothing here bounds "
    "what "
    "that job released.",
    "The same record in another data set or at another site is not counted here, nor is what leaves the site other "
    "than "
    "through Tributary.",
    "Times are those of the site's clock."};

// JSON has no infinity: what is unbounded is null.
json::value number_or_null(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

// Readable, with numbers as people write them.
void append_pretty(const json::value& value, std::size_t indent, std::string& out) {
  const std::string inner(indent + 2, ' ');
  if (const auto* object = value.if_object(); object != nullptr && !object->empty()) {
    out += "{";
    bool is_first = true;
    for (const auto& [key, member] : *object) {
      out += is_first ? "\n" : ",\n";
      is_first = false;
      out += inner + json::serialize(json::string(key)) + ": ";
      append_pretty(member, indent + 2, out);
    }
    out += "\n" + std::string(indent, ' ') + "}";
  } else if (const auto* array = value.if_array(); array != nullptr && !array->empty()) {
    out += "[";
    bool is_first = true;
    for (const json::value& member : *array) {
      out += (is_first ? "\n" : ",\n") + inner;
      is_first = false;
      append_pretty(member, indent + 2, out);
    }
    out += "\n" + std::string(indent, ' ') + "]";
  } else if (const auto* number = value.if_double(); number != nullptr) {
    out += fmt::format("{}", *number);
  } else {
    out += json::serialize(value);
  }
}

json::object mechanism_json(const Mechanism& mechanism) {
  json::object document{{"mechanism", mechanism_name(mechanism)},
                        {"sample_rate", mechanism.sample_rate},
                        {"noise_multiplier", mechanism.noise_multiplier},
                        {"clip_norm", mechanism.clip_norm},
                        {"steps", mechanism.steps}};
  if (mechanism.kind != MechanismKind::none) {
    document["noise"] = to_string(mechanism.noise);
    document["clipping"] = to_string(mechanism.clipping);
  }
  return document;
}

Result<Mechanism> mechanism_from(const json::object& object) try {
  Mechanism mechanism;
  const std::string_view name = object.at("mechanism").as_string();
  mechanism.kind = name == "none" ? MechanismKind::none : MechanismKind::poisson_subsampled_gaussian;
  mechanism.sample_rate = object.at("sample_rate").to_number<double>();
  mechanism.noise_multiplier = object.at("noise_multiplier").to_number<double>();
  mechanism.clip_norm = object.at("clip_norm").to_number<double>();
  mechanism.steps = object.at("steps").to_number<std::int64_t>();
  if (mechanism.kind != MechanismKind::none) {
    const bool is_float = object.at("noise").as_string() == to_string(NoiseKind::float_gaussian);
    const bool is_flat = object.at("clipping").as_string() == to_string(Clipping::flat);
    mechanism.noise = is_float ? NoiseKind::float_gaussian : NoiseKind::discrete_gaussian;
    mechanism.clipping = is_flat ? Clipping::flat : Clipping::automatic;
  }
  if (name != mechanism_name(mechanism)) return Error{Errc::corrupt, fmt::format("mechanism '{}' is not known", name)};
  return mechanism;
} catch (const std::exception& error) {
  return Error{Errc::corrupt, fmt::format("a mechanism is not complete ({})", error.what())};
}

json::object data_set_json(const DataSetFigures& set) {
  const Account& account = set.account;
  json::object document{{"name", set.name},
                        {"declared_records", account.declared_records},
                        {"private", set.is_private()},
                        {"delta", set.delta},
                        {"epsilon_filter", number_or_null(set.epsilon_filter)},
                        {"epsilon_tight", number_or_null(set.epsilon_tight)}};
  document["budget"] = nullptr;
  if (account.budget) {
    document["budget"] = json::object{
        {"epsilon", account.budget->epsilon}, {"delta", account.budget->delta}, {"order", account.budget->order}};
  }
  document["entries_lost_and_charged"] = account.lost;
  document["read_openly_as"] = set.read_openly_as.empty() ? json::value(nullptr) : json::value(set.read_openly_as);
  json::array versions, jobs;
  for (const DataVersion& version : account.versions) {
    versions.push_back(json::object{{"version", version.version},
                                    {"entry", version.entry},
                                    {"time", version.time},
                                    {"declared_records", version.declared_records}});
  }
  for (const auto& [name, job] : account.jobs) {
    json::array mechanisms;
    for (const Mechanism& mechanism : job.mechanisms) mechanisms.push_back(mechanism_json(mechanism));
    jobs.push_back(json::object{{"job", name},
                                {"rounds", job.rounds},
                                {"first", job.first_time},
                                {"last", job.last_time},
                                {"mechanisms", std::move(mechanisms)}});
  }
  document["versions"] = std::move(versions);
  document["jobs"] = std::move(jobs);
  return document;
}

// The epsilons of one data set, from its mechanisms alone.
Status recompute(const json::object& set) {
  const std::string_view name = set.at("name").as_string();
  std::vector<Mechanism> mechanisms;
  RdpCurve curve;
  for (const json::value& job : set.at("jobs").as_array()) {
    for (const json::value& value : job.at("mechanisms").as_array()) {
      TRIB_ASSIGN(const Mechanism mechanism, mechanism_from(value.as_object()));
      curve.add(mechanism);
      merge(mechanisms, mechanism);
    }
  }
  const auto expect = [&](std::string_view key, double computed) -> Status {
    const json::value& stated = set.at(key);
    const double value = stated.is_null() ? std::numeric_limits<double>::infinity() : stated.to_number<double>();
    const bool equal =
        std::isinf(computed) ? std::isinf(value) : std::abs(value - computed) <= kTolerance * std::max(1.0, computed);
    if (equal) return {};
    return Error{Errc::corrupt, fmt::format("data set '{}': {} is stated as {}, but its mechanisms make it {}", name,
                                            key, value, computed)};
  };
  const bool is_private = std::none_of(mechanisms.begin(), mechanisms.end(), [](const Mechanism& mechanism) {
    return mechanism.kind == MechanismKind::none;
  });
  if (set.at("private").as_bool() != is_private) {
    return Error{Errc::corrupt, fmt::format("data set '{}' is{} stated to be private, and its mechanisms say otherwise",
                                            name, is_private ? " not" : "")};
  }
  TRIB_TRY(expect("epsilon_tight", tight_epsilon(mechanisms, set.at("delta").to_number<double>()).epsilon));
  double filtered = is_private ? 0.0 : std::numeric_limits<double>::infinity();
  if (const auto* budget = set.at("budget").if_object(); budget != nullptr && is_private) {
    const double stated = budget->at("order").to_number<double>();
    const auto orders = rdp_orders();
    const auto order =
        std::find_if(orders.begin(), orders.end(), [&](double known) { return std::abs(known - stated) < 1e-9; });
    if (order == orders.end()) {
      return Error{Errc::corrupt, fmt::format("data set '{}': there is no Rényi order {}", name, stated)};
    }
    filtered = curve.epsilon_at_order(*order, budget->at("delta").to_number<double>());
  }
  return expect("epsilon_filter", filtered);
}

}  // namespace

Result<std::string> make_statement(const LedgerFigures& figures, const std::string& made, const Signer& signer) {
  if (signer.public_key().text() != figures.file.key) {
    return Error{Errc::permission_denied,
                 fmt::format("the key at hand ({}…) is not the one that signed the ledger '{}' last ({}…): a statement "
                             "is signed with the site's own key.pem",
                             to_hex(signer.public_key().sha256()).substr(0, 16), figures.path.string(),
                             figures.key_sha256.substr(0, 16))};
  }
  json::array changes, sets, assumptions;
  for (const LedgerEntry& change : figures.key_changes) {
    changes.push_back(json::object{{"entry", change.number},
                                   {"time", change.time},
                                   {"countersigned", !change.countersignature.empty()},
                                   {"reason", change.note}});
  }
  for (const DataSetFigures& set : figures.data_sets) sets.push_back(data_set_json(set));
  for (const char* assumption : kAssumptions) assumptions.emplace_back(assumption);
  const json::object document{
      {"format", kFormat},
      {"version", kVersion},
      {"site", figures.file.header.site},
      {"made", made},
      {"ledger",
       {{"id", figures.file.header.id},
        {"created", figures.file.header.created},
        {"last_entry", figures.file.last_time()},
        {"lines", static_cast<std::int64_t>(figures.file.entries.size())},
        {"head", {{"count", figures.file.head.count}, {"hash", to_hex(figures.file.head.hash)}}}}},
      {"key", signer.public_key().text()},
      {"key_sha256", figures.key_sha256},
      {"key_changes", std::move(changes)},
      {"unit", "one record"},
      {"adjacency", "a record is added or removed"},
      {"sampling", "Poisson"},
      {"data_sets", std::move(sets)},
      {"assumptions", std::move(assumptions)}};
  std::string text;
  append_pretty(document, 0, text);
  text.pop_back();  // the brace: the seal closes the object
  TRIB_ASSIGN(std::string sealed, seal(std::move(text), signer));
  return sealed + "\n";
}

Result<Statement> read_statement(const std::string& text, const std::string& name) try {
  const auto wrong = [&](const Error& error) { return error.with_context("privacy statement '" + name + "'"); };
  std::string_view sealed_text = text;
  while (sealed_text.ends_with('\n')) sealed_text.remove_suffix(1);
  boost::system::error_code parse_error;
  json::value value = json::parse(sealed_text, parse_error);
  if (parse_error || !value.is_object() || !value.as_object().contains("format") ||
      value.at("format") != json::value(kFormat)) {
    return wrong({Errc::invalid_argument, "it is not a privacy statement"});
  }
  if (value.at("version") != json::value(kVersion)) {
    return wrong({Errc::unsupported, "it has another version than this program reads: use a newer one"});
  }
  const auto sealed = open_sealed(sealed_text);
  if (!sealed) return wrong(sealed.error());
  Statement statement;
  statement.document = std::move(value.as_object());
  statement.site = std::string(statement.document.at("site").as_string());
  const auto key = PublicKey::from_text(std::string_view(statement.document.at("key").as_string()));
  if (!key) return wrong(key.error());
  if (!sealed->signed_by(*key)) return wrong({Errc::corrupt, "its signature does not match"});
  statement.key_sha256 = to_hex(key->sha256());
  if (statement.document.at("key_sha256").as_string() != statement.key_sha256) {
    return wrong({Errc::corrupt, "key_sha256 is not that of its key"});
  }
  statement.hash = to_hex(sealed->hash);
  statement.signature = sealed->signature;
  statement.head_count = statement.document.at("ledger").at("head").at("count").to_number<std::int64_t>();
  return statement;
} catch (const std::exception& error) {
  return Error{Errc::corrupt,
               fmt::format("privacy statement '{}': a field is missing or of another type ({})", name, error.what())};
}

Result<Statement> verify_statement(const std::string& text, const std::string& name) try {
  TRIB_ASSIGN(Statement statement, read_statement(text, name));
  for (const json::value& set : statement.document.at("data_sets").as_array()) {
    if (const Status sound = recompute(set.as_object()); !sound)
      return sound.error().with_context("privacy statement '" + name + "'");
  }
  return statement;
} catch (const std::exception& error) {
  return Error{Errc::corrupt,
               fmt::format("privacy statement '{}': a field is missing or of another type ({})", name, error.what())};
}

}  // namespace trib::privacy
