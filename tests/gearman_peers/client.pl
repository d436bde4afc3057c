# Submits one job with Gearman::Client: HOST:PORT FUNCTION, data on stdin, its answer on stdout.
use strict; use warnings;
use Gearman::Client;
binmode STDIN; binmode STDOUT;
my ($server, $function) = @ARGV;
my $data = do { local $/; <STDIN> };
my $client = Gearman::Client->new(job_servers => [$server], exceptions => 1);
my $answer = $client->do_task($function, \$data, { on_exception => sub { print STDERR $_[0] } });
exit 1 unless defined $answer;
print $$answer;
