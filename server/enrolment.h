// The aggregator's half of enrolment: one request without a certificate, one reply.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>

#include "common/net/channel.h"
#include "server/certificate_authority.h"

namespace trib::server {

// Answers one request and ends the channel. `enrolled` is called with the member's name after a certificate was issued.
boost::asio::awaitable<void> serve_enrolment(std::unique_ptr<net::Channel> channel, CertificateAuthority& authority,
                                             std::string federation, std::function<void(const std::string&)> enrolled);

}  // namespace trib::server
