#include "privacy/ledger_file.h"

#include <spdlog/fmt/fmt.h>

#include <boost/json.hpp>
#include <utility>

namespace trib::privacy {
namespace {

namespace json = boost::json;

constexpr std::string_view kFormat = "tributary-privacy-ledger";
constexpr std::int64_t kVersion = 1;
constexpr std::string_view kHashField = ",\"hash\":\"";
constexpr std::size_t kHashSuffix = kHashField.size() + 64 + 2;  // … 64 hex digits, quote, brace

std::string json_string(std::string_view text) {
  return json::serialize(json::string(text));
}

std::string_view to_string(MechanismKind kind) {
  return kind == MechanismKind::none ? "none" : "poisson_subsampled_gaussian";
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
      // Lines from before the discrete Gaussian do not say how: by the float one, clipped flat.
      const std::string noise_kind = text("noise").value_or(std::string(to_string(NoiseKind::float_gaussian)));
      const std::string clipping = text("clipping").value_or(std::string(to_string(Clipping::flat)));
      mechanism.noise =
          noise_kind == to_string(NoiseKind::float_gaussian) ? NoiseKind::float_gaussian : NoiseKind::discrete_gaussian;
      mechanism.clipping = clipping == to_string(Clipping::flat) ? Clipping::flat : Clipping::automatic;
      if (noise_kind != to_string(mechanism.noise) || clipping != to_string(mechanism.clipping)) return std::nullopt;
    } else if (*kind != to_string(MechanismKind::none)) {
      return std::nullopt;
    }
    return mechanism;
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

Status check_header(std::string_view line) {
  const auto object = parse_object(line);
  if (!object || Fields(*object).text("format") != kFormat) {
    return corrupt("line 1 is not the header of a privacy ledger");
  }
  const auto version = Fields(*object).integer("version");
  if (version != kVersion) {
    return Error{Errc::unsupported, fmt::format("it has format version {}, but this program reads version {}: use the "
                                                "program that wrote it, or a newer one",
                                                version.value_or(0), kVersion)};
  }
  return {};
}

}  // namespace

std::string render_ledger_header(std::string_view id, std::string_view time) {
  return fmt::format("{{\"format\":\"{}\",\"version\":{},\"id\":{},\"created\":{}}}\n", kFormat, kVersion,
                     json_string(id), json_string(time));
}

std::string render_ledger_entry(const LedgerEntry& entry) {
  const Charge& charge = entry.charge;
  const Mechanism& mechanism = charge.mechanism;
  // What costs comes first: the more of a torn line is left, the better it can be bounded.
  std::string line = fmt::format(
      "{{\"number\":{},\"kind\":\"{}\",\"data_set\":{},{},\"sample_rate\":{},\"noise_multiplier\":{},"
      "\"clip_norm\":{},\"steps\":{},\"job\":{},\"round\":{},\"declared_records\":{},\"target_delta\":{},\"time\":{},",
      entry.number, entry.is_gap ? "gap" : "charge", json_string(charge.data_set), render_mechanism_kind(mechanism),
      mechanism.sample_rate, mechanism.noise_multiplier, mechanism.clip_norm, mechanism.steps, json_string(charge.job),
      charge.round, charge.declared_records, charge.target_delta, json_string(entry.time));
  if (entry.is_gap) line += fmt::format("\"missing\":{},", entry.missing);
  if (!entry.note.empty()) line += fmt::format("\"note\":{},", json_string(entry.note));
  line += fmt::format("\"previous\":\"{}\"", to_hex(entry.previous));
  const Sha256 hash = sha256(line);
  line += fmt::format("{}{}\"}}", kHashField, to_hex(hash));
  return line;
}

Result<LedgerEntry> parse_ledger_entry(std::string_view line) {
  if (line.size() < kHashSuffix || line.substr(line.size() - kHashSuffix, kHashField.size()) != kHashField) {
    return corrupt("it does not end with its hash: the line was cut or damaged");
  }
  const auto object = parse_object(line);
  if (!object) return corrupt("it is not a JSON object: the line was damaged");
  const Fields fields(*object);
  const auto hash = fields.hash("hash");
  if (!hash || *hash != sha256(line.substr(0, line.size() - kHashSuffix))) {
    return corrupt("its hash does not match its bytes: the line was edited or damaged");
  }
  const auto number = fields.integer("number"), round = fields.integer("round");
  const auto records = fields.integer("declared_records");
  const auto kind = fields.text("kind"), data_set = fields.text("data_set"), job = fields.text("job");
  const auto time = fields.text("time");
  const auto delta = fields.number("target_delta");
  const auto mechanism = fields.mechanism();
  const auto previous = fields.hash("previous");
  if (!number || !round || !records || !kind || !data_set || !job || !time || !delta || !mechanism || !previous) {
    return corrupt("a field is missing or of the wrong kind, though its hash matches: another program wrote it");
  }
  LedgerEntry entry;
  entry.number = *number;
  entry.time = *time;
  entry.charge = Charge{*job, *round, *data_set, *records, *delta, *mechanism};
  entry.is_gap = *kind == "gap";
  entry.missing = fields.integer("missing").value_or(0);
  entry.note = fields.text("note").value_or("");
  entry.previous = *previous;
  entry.hash = *hash;
  return entry;
}

TornCharge parse_torn_line(std::string_view bytes) {
  // The longest run of complete fields: cut at a comma, close the brace, see whether that is JSON.
  for (std::size_t comma = bytes.rfind(','); comma != std::string_view::npos && comma > 0;
       comma = bytes.rfind(',', comma - 1)) {
    const auto object = parse_object(std::string(bytes.substr(0, comma)) + "}");
    if (!object) continue;
    const Fields fields(*object);
    return {fields.text("data_set").value_or(""),
            fields.mechanism(),
            fields.text("job"),
            fields.integer("round"),
            fields.integer("declared_records").value_or(0),
            fields.number("target_delta").value_or(0.0)};
  }
  return {};
}

Result<LedgerFile> parse_ledger(std::string_view text, std::string_view name) {
  constexpr std::string_view kAdvice =
      ". Nothing is trained on a ledger that cannot be trusted: restore it from a backup; the server then tells how "
      "many "
      "entries are missing, and they are charged";
  const std::size_t header_end = text.find('\n');
  if (header_end == std::string_view::npos) {
    return corrupt(fmt::format("privacy ledger '{}': it has no header line{}", name, kAdvice));
  }
  const std::string_view header = text.substr(0, header_end);
  if (const Status status = check_header(header); !status) {
    return status.error().with_context(fmt::format("privacy ledger '{}'", name));
  }
  LedgerFile file;
  file.head.hash = sha256(header);
  std::size_t start = header_end + 1;
  for (std::int64_t line_number = 2;; ++line_number) {
    const std::size_t end = text.find('\n', start);
    if (end == std::string_view::npos) break;
    const auto refuse = [&](std::int64_t number, std::string_view what) {
      return corrupt(
          fmt::format("privacy ledger '{}', line {} (entry {}): {}{}", name, line_number, number, what, kAdvice));
    };
    auto entry = parse_ledger_entry(text.substr(start, end - start));
    if (!entry) return refuse(file.head.count + 1, entry.error().message);
    const std::int64_t expected = file.head.count + entry->missing + 1;
    if (entry->previous != file.head.hash || entry->number != expected || entry->missing < 0) {
      return refuse(entry->number, fmt::format("it does not follow entry {}: lines were removed, added or reordered",
                                               file.head.count));
    }
    file.head = {entry->number, entry->hash};
    file.entries.push_back(*std::move(entry));
    start = end + 1;
  }
  file.complete_bytes = start;
  file.torn = std::string(text.substr(start));
  return file;
}

}  // namespace trib::privacy
