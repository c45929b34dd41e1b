#include "privacy/ledger_file.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <utility>

#include "privacy/accountant.h"
#include "privacy/sealed.h"

namespace trib::privacy {
namespace {

namespace json = boost::json;

constexpr std::string_view kFormat = "tributary-privacy-ledger";
constexpr std::int64_t kVersion = 2;
constexpr std::string_view kUnit = "record";  // the unit of privacy of every charge; add or remove one
constexpr std::size_t kTimeLength = 24;       // "2026-11-24T15:04:05.123Z": compares as text
constexpr std::pair<EntryKind, std::string_view> kKinds[] = {{EntryKind::charge, "charge"},
                                                             {EntryKind::gap, "gap"},
                                                             {EntryKind::torn, "torn"},
                                                             {EntryKind::data, "data"},
                                                             {EntryKind::key, "key"}};

std::string json_string(std::string_view text) {
  return json::serialize(json::string(text));
}

std::string_view to_string(MechanismKind kind) {
  return kind == MechanismKind::none ? "none" : "poisson_subsampled_gaussian";
}

std::string_view to_string(EntryKind kind) {
  return std::find_if(std::begin(kKinds), std::end(kKinds), [&](const auto& entry) { return entry.first == kind; })
      ->second;
}

std::optional<EntryKind> kind_from_text(std::string_view text) {
  for (const auto& [kind, name] : kKinds) {
    if (name == text) return kind;
  }
  return std::nullopt;
}

// Kind, noise and clipping rule.
std::string render_mechanism_kind(const Mechanism& mechanism) {
  std::string text = fmt::format("\"mechanism\":\"{}\"", to_string(mechanism.kind));
  if (mechanism.kind != MechanismKind::none) {
    text +=
        fmt::format(",\"noise\":\"{}\",\"clipping\":\"{}\"", to_string(mechanism.noise), to_string(mechanism.clipping));
  }
  return text;
}

Error corrupt(std::string message) {
  return {Errc::corrupt, std::move(message)};
}

// Typed access to the fields of one line.
class Fields {
 public:
  explicit Fields(const json::object& object) : object_(object) {}

  std::optional<std::string> text(std::string_view name) const {
    const json::value* value = object_.if_contains(name);
    if (value == nullptr || !value->is_string()) return std::nullopt;
    return std::string(value->get_string());
  }
  std::optional<std::int64_t> integer(std::string_view name) const {
    const json::value* value = object_.if_contains(name);
    if (value == nullptr || !value->is_int64()) return std::nullopt;
    return value->get_int64();
  }
  std::optional<double> number(std::string_view name) const {
    const json::value* value = object_.if_contains(name);
    if (value == nullptr || !value->is_number()) return std::nullopt;
    return value->to_number<double>();
  }
  std::optional<Sha256> hash(std::string_view name) const {
    const auto hex = text(name);
    if (!hex) return std::nullopt;
    auto hash = sha256_from_hex(*hex);
    if (!hash) return std::nullopt;
    return *hash;
  }
  std::optional<Mechanism> mechanism() const {
    const auto kind = text("mechanism");
    const auto sample_rate = number("sample_rate"), noise = number("noise_multiplier"), clip = number("clip_norm");
    const auto steps = integer("steps");
    if (!kind || !sample_rate || !noise || !clip || !steps) return std::nullopt;
    Mechanism mechanism{MechanismKind::none, *sample_rate, *noise, *clip, *steps};
    if (*kind == to_string(MechanismKind::poisson_subsampled_gaussian)) {
      mechanism.kind = MechanismKind::poisson_subsampled_gaussian;
      const std::string noise_kind = text("noise").value_or(""), clipping = text("clipping").value_or("");
      mechanism.noise =
          noise_kind == to_string(NoiseKind::float_gaussian) ? NoiseKind::float_gaussian : NoiseKind::discrete_gaussian;
      mechanism.clipping = clipping == to_string(Clipping::flat) ? Clipping::flat : Clipping::automatic;
      if (noise_kind != to_string(mechanism.noise) || clipping != to_string(mechanism.clipping)) return std::nullopt;
    } else if (*kind != to_string(MechanismKind::none)) {
      return std::nullopt;
    }
    return mechanism;
  }

  std::optional<EntryKind> kind() const {
    const auto name = text("kind");
    return name ? kind_from_text(*name) : std::nullopt;
  }
  std::optional<StatedBudget> budget() const {
    const auto epsilon = number("budget_epsilon"), delta = number("budget_delta"), order = number("order");
    if (!epsilon || !delta || !order) return std::nullopt;
    // As a decimal it may be read one bit off, and what is meant is one of the table's.
    const auto orders = rdp_orders();
    const auto nearest = std::min_element(
        orders.begin(), orders.end(), [&](double a, double b) { return std::abs(a - *order) < std::abs(b - *order); });
    if (std::abs(*nearest - *order) > 1e-9) return std::nullopt;
    return StatedBudget{*epsilon, *delta, *nearest};
  }

 private:
  const json::object& object_;
};

std::optional<json::object> parse_object(std::string_view text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error || !value.is_object()) return std::nullopt;
  return std::move(value.get_object());
}

Result<LedgerHeader> parse_header(std::string_view line) {
  const auto object = parse_object(line);
  const auto fields = object ? std::optional<Fields>(*object) : std::nullopt;
  if (!fields || fields->text("format") != kFormat) return corrupt("line 1 is not the header of a privacy ledger");
  const auto version = fields->integer("version");
  if (version == 1) {
    return Error{Errc::unsupported,
                 "it has format version 1, whose entries nobody signed, so this program does not go on with it: keep "
                 "the file for your records, take what it spent off the caps in client.toml, and start with a new "
                 "ledger under new data set names"};
  }
  if (version != kVersion) {
    return Error{Errc::unsupported, fmt::format("it has format version {}, but this program reads version {}: use the "
                                                "program that wrote it, or a newer one",
                                                version.value_or(0), kVersion)};
  }
  const auto id = fields->text("id"), site = fields->text("site"), created = fields->text("created");
  const auto key = fields->text("key");
  if (!id || !site || !created || created->size() != kTimeLength || !key) return corrupt("line 1 lacks a field");
  return LedgerHeader{*id, *site, *created, *key};
}

void append_charge(const LedgerEntry& entry, std::string& line) {
  const Charge& charge = entry.charge;
  const Mechanism& mechanism = charge.mechanism;
  // What costs comes first: the more of a torn line is left, the better it can be bounded.
  line += fmt::format(
      "{},\"sample_rate\":{},\"noise_multiplier\":{},"
      "\"clip_norm\":{},\"steps\":{},\"job\":{},\"round\":{},\"declared_records\":{},\"target_delta\":{},",
      render_mechanism_kind(mechanism), mechanism.sample_rate, mechanism.noise_multiplier, mechanism.clip_norm,
      mechanism.steps, json_string(charge.job), charge.round, charge.declared_records, charge.target_delta);
  if (entry.budget) {
    line += fmt::format("\"budget_epsilon\":{},\"budget_delta\":{},\"order\":{},", entry.budget->epsilon,
                        entry.budget->delta, entry.budget->order);
  }
  line += fmt::format("\"unit\":\"{}\",", kUnit);
  if (entry.kind == EntryKind::gap) line += fmt::format("\"missing\":{},", entry.missing);
}

// What a charge, gap or torn line says of its cost. False if a field is missing or cannot be.
bool read_charge(const Fields& fields, LedgerEntry& entry) {
  const auto data_set = fields.text("data_set"), job = fields.text("job");
  const auto round = fields.integer("round"), records = fields.integer("declared_records");
  const auto delta = fields.number("target_delta");
  const auto mechanism = fields.mechanism();
  if (!data_set || !job || !round || !records || !delta || !mechanism || fields.text("unit") != kUnit) return false;
  // A charge may not lower what was spent.
  if (mechanism->steps < 0 || !(mechanism->sample_rate >= 0.0 && mechanism->sample_rate <= 1.0)) return false;
  entry.charge = Charge{*job, *round, *data_set, *records, *delta, *mechanism};
  entry.budget = fields.budget();
  entry.missing = fields.integer("missing").value_or(0);
  return true;
}

bool read_data(const Fields& fields, LedgerEntry& entry) {
  const auto data_set = fields.text("data_set");
  const auto version = fields.integer("version"), records = fields.integer("declared_records");
  const auto digest = fields.hash("digest");
  if (!data_set || !version || !records || !digest) return false;
  entry.charge.data_set = *data_set;
  entry.charge.declared_records = *records;
  entry.charge.mechanism = {};
  entry.data_version = *version;
  entry.data_digest = *digest;
  return true;
}

bool read_key(const Fields& fields, LedgerEntry& entry) {
  entry.key = fields.text("key").value_or("");
  entry.countersignature = fields.text("countersignature").value_or("");
  return !entry.key.empty();
}

}  // namespace

Result<std::string> render_ledger_header(const LedgerHeader& header, const Signer& signer) {
  TRIB_ASSIGN(std::string line,
              seal(fmt::format("{{\"format\":\"{}\",\"version\":{},\"id\":{},\"site\":{},\"created\":{},\"key\":{}",
                               kFormat, kVersion, json_string(header.id), json_string(header.site),
                               json_string(header.created), json_string(header.key)),
                   signer));
  return line + "\n";
}

Result<std::string> render_ledger_entry(const LedgerEntry& entry, const Signer& signer) {
  std::string line = fmt::format("{{\"number\":{},\"kind\":\"{}\",", entry.number, to_string(entry.kind));
  if (entry.kind == EntryKind::key) {
    line += fmt::format("\"key\":{},", json_string(entry.key));
    if (!entry.countersignature.empty()) {
      line += fmt::format("\"countersignature\":{},", json_string(entry.countersignature));
    }
  } else {
    line += fmt::format("\"data_set\":{},", json_string(entry.charge.data_set));
  }
  if (entry.spends()) append_charge(entry, line);
  if (entry.kind == EntryKind::data) {
    line += fmt::format("\"version\":{},\"declared_records\":{},\"digest\":\"{}\",", entry.data_version,
                        entry.charge.declared_records, to_hex(entry.data_digest));
  }
  line += fmt::format("\"time\":{},", json_string(entry.time));
  if (!entry.note.empty()) line += fmt::format("\"note\":{},", json_string(entry.note));
  line += fmt::format("\"previous\":\"{}\"", to_hex(entry.previous));
  return seal(std::move(line), signer);
}

std::string key_change_message(std::string_view new_key, const Sha256& previous) {
  return fmt::format("tributary-key-change:{}:{}", to_hex(previous), new_key);
}

Result<LedgerEntry> parse_ledger_entry(std::string_view line) {
  TRIB_ASSIGN(const Sealed sealed, open_sealed(line));
  const auto object = parse_object(line);
  if (!object) return corrupt("it is not a JSON object: the line was damaged");
  const Fields fields(*object);
  const auto number = fields.integer("number");
  const auto kind = fields.kind();
  const auto time = fields.text("time");
  const auto previous = fields.hash("previous");
  if (!number || !kind || !time || time->size() != kTimeLength || !previous) {
    return corrupt("it lacks a field, or has one of another type");
  }
  LedgerEntry entry;
  entry.number = *number;
  entry.kind = *kind;
  entry.time = *time;
  entry.note = fields.text("note").value_or("");
  entry.previous = *previous;
  entry.hash = sealed.hash;
  const bool complete = entry.spends()                  ? read_charge(fields, entry)
                        : entry.kind == EntryKind::data ? read_data(fields, entry)
                                                        : read_key(fields, entry);
  if (!complete) return corrupt("it lacks a field, or has one of another type");
  return entry;
}

TornLine parse_torn_line(std::string_view bytes) {
  // The longest run of complete fields: cut at a comma, close the brace, see whether that is JSON.
  for (std::size_t comma = bytes.rfind(','); comma != std::string_view::npos && comma > 0;
       comma = bytes.rfind(',', comma - 1)) {
    const auto object = parse_object(std::string(bytes.substr(0, comma)) + "}");
    if (!object) continue;
    const Fields fields(*object);
    return {fields.kind(),
            fields.text("data_set").value_or(""),
            fields.mechanism(),
            fields.text("job"),
            fields.integer("round"),
            fields.integer("declared_records").value_or(0),
            fields.number("target_delta").value_or(0.0),
            fields.budget()};
  }
  return {};
}

Result<LedgerFile> parse_ledger(std::string_view text, std::string_view name) {
  constexpr std::string_view kAdvice =
      ". Nothing is trained on a ledger that cannot be trusted: restore it from a backup; the server then tells how "
      "many entries are missing, and they are charged";
  const std::size_t header_end = text.find('\n');
  if (header_end == std::string_view::npos) {
    return corrupt(fmt::format("privacy ledger '{}': it has no header line{}", name, kAdvice));
  }
  const std::string_view header_line = text.substr(0, header_end);
  const auto refuse_header = [&](const Error& error) {
    return error.with_context(fmt::format("privacy ledger '{}'", name));
  };
  auto header = parse_header(header_line);
  if (!header) return refuse_header(header.error());
  const auto sealed_header = open_sealed(header_line);
  if (!sealed_header) return refuse_header(sealed_header.error().with_context("line 1"));
  auto key = PublicKey::from_text(header->key);
  if (!key || !sealed_header->signed_by(*key)) {
    return refuse_header(corrupt(fmt::format("line 1 is not signed by the key in it{}", kAdvice)));
  }
  LedgerFile file;
  file.header = *std::move(header);
  file.head.hash = sealed_header->hash;
  std::size_t start = header_end + 1;
  for (std::int64_t line_number = 2;; ++line_number) {
    const std::size_t end = text.find('\n', start);
    if (end == std::string_view::npos) break;
    const std::string_view line = text.substr(start, end - start);
    const auto refuse = [&](std::int64_t number, std::string_view what) {
      return corrupt(
          fmt::format("privacy ledger '{}', line {} (entry {}): {}{}", name, line_number, number, what, kAdvice));
    };
    auto entry = parse_ledger_entry(line);
    if (!entry) return refuse(file.head.count + 1, entry.error().message);
    if (entry->previous != file.head.hash || entry->missing < 0 ||
        entry->number != file.head.count + entry->missing + 1) {
      return refuse(entry->number, fmt::format("it does not follow entry {}: lines were removed, added or reordered",
                                               file.head.count));
    }
    if (entry->kind == EntryKind::key) {
      auto next = PublicKey::from_text(entry->key);
      if (!next) return refuse(entry->number, next.error().message);
      const std::string message = key_change_message(entry->key, entry->previous);
      if (!entry->countersignature.empty() && !key->verifies(message, entry->countersignature)) {
        return refuse(entry->number, "the old key's countersignature does not match");
      }
      key = std::move(next);
    }
    if (!open_sealed(line).value().signed_by(*key)) {
      return refuse(entry->number, "its signature does not match: whoever wrote it had not the site's key");
    }
    if (entry->time < file.last_time()) {
      return refuse(entry->number,
                    fmt::format("its time {} is before that of the line before it, {}", entry->time, file.last_time()));
    }
    file.head = {entry->number, entry->hash};
    file.entries.push_back(*std::move(entry));
    start = end + 1;
  }
  file.key = key->text();
  file.complete_bytes = start;
  file.torn = std::string(text.substr(start));
  return file;
}

}  // namespace trib::privacy
