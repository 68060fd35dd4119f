"""The coordinator's web side: REST, server-sent events, metrics, and the pages that stand on them.

==================  ================================================================================
module              what it knows
==================  ================================================================================
schema              dataclasses to and from JSON, and as JSON Schema
routing             what a handler declares; errors as problem documents
openapi             the OpenAPI document, made from the handlers' declarations
models              what the API shows, and what it takes
snapshot            what is known of the fleet at one tick
feed                changes between ticks, for server-sent events; speed over time
access, sessions    who may ask: hosts, origins, logins, tokens
guard               the middleware that holds all of that
verifying           files hashed where they lie, one model at a time
*_api               the handlers, by subject
server              starts and stops it all
==================  ================================================================================

Imported only where `web.listen` is set.
"""
