# A worker by Gearman::Worker: HOST:PORT. "upper" answers in capitals, "broken" fails.
use strict; use warnings;
use Gearman::Worker;
my $worker = Gearman::Worker->new(job_servers => [$ARGV[0]]);
$worker->register_function(upper => sub { (my $data = $_[0]->arg) =~ tr/a-z/A-Z/; return $data; });
$worker->register_function(broken => sub { die "this one fails\n" });
$worker->work while 1;
