#include "server/enrolment.h"

#include <spdlog/spdlog.h>

namespace trib::server {
namespace {

using tributary::proto::EnrolReply;
using tributary::proto::EnrolRequest;

constexpr Milliseconds goodbye_patience{2'000};

Result<net::Certificate> issue(CertificateAuthority& authority, const EnrolRequest& request) {
  if (request.lapsed_certificate_pem().empty())
    return authority.redeem(request.secret(), request.certificate_request_pem());
  return authority.renew_lapsed(request.lapsed_certificate_pem(), request.certificate_request_pem());
}

}  // namespace

boost::asio::awaitable<void> serve_enrolment(std::unique_ptr<net::Channel> channel, CertificateAuthority& authority,
                                             std::string federation, std::function<void(const std::string&)> enrolled) {
  const std::string address = channel->remote_address();
  Result<net::Frame> frame = co_await channel->receive();
  if (!frame) {
    spdlog::info("enrolment from {} ended before its request: {}", address, frame.error().message);
    co_return;
  }
  const auto request = net::parse_message<EnrolRequest>(*frame);
  Result<net::Certificate> certificate =
      request ? issue(authority, *request) : Result<net::Certificate>(request.error());
  EnrolReply reply;
  if (certificate) {
    const std::string name = certificate->common_name();
    spdlog::info("'{}' got certificate {} (role {}, until {}) from {}", name, certificate->serial(),
                 certificate->organizational_unit(), to_iso8601(certificate->not_after()), address);
    reply.set_certificate_pem(certificate->to_pem());
    reply.set_ca_certificate_pem(authority.ca_certificate().to_pem());
    reply.set_site(name);
    reply.set_federation(federation);
    enrolled(name);
  } else {
    spdlog::warn("enrolment from {} refused: {}", address, certificate.error().message);
    reply.set_error_code(std::string(to_string(certificate.error().code)));
    reply.set_error(certificate.error().message);
  }
  const Status sent = co_await channel->send(reply);
  if (sent) co_await channel->finish(goodbye_patience);
}

}  // namespace trib::server
